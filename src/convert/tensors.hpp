#pragma once
// Files of other software as lists of named tensors that are read and written a stretch at a time, so that a model
// larger than memory can be converted. Every format has a source and a sink; what the tensors mean is convert/names.

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "device/tensor.hpp"

namespace vitrail {

/// One tensor of a file, as the file names it: row-major.
struct TensorInfo {
  friend bool operator==(const TensorInfo&, const TensorInfo&) = default;

  std::string name;
  Shape shape;
  Dtype dtype = Dtype::f32;
};

/// Reads a file. What is large stays in the file until it is asked for.
class TensorSource {
 public:
  TensorSource() = default;
  TensorSource(const TensorSource&) = delete;
  TensorSource& operator=(const TensorSource&) = delete;
  virtual ~TensorSource() = default;

  /// In the order of the file.
  [[nodiscard]] virtual std::span<const TensorInfo> tensors() const = 0;
  /// Elements first .. first + to.elements() - 1 of a tensor into host memory `to` of the same dtype. Cheapest in the
  /// order of the file. Error (checkpoint) naming file and tensor when the file is damaged or has no such elements.
  virtual void read(const std::string& name, std::int64_t first, Tensor to) = 0;
};

/// Writes a file whose tensors were listed when it was made.
class TensorSink {
 public:
  TensorSink() = default;
  TensorSink(const TensorSink&) = delete;
  TensorSink& operator=(const TensorSink&) = delete;
  /// Without finish() nothing is left behind but, perhaps, a file NAME.tmp.
  virtual ~TensorSink() = default;

  /// The next elements, in host memory: the tensors follow each other in the order of the list, each whole, in as many
  /// stretches as one likes. Error (checkpoint) when the file cannot be written.
  virtual void write(ConstTensor stretch) = 0;
  /// After the last element: the file is complete, forced to disk and under its name.
  virtual void finish() = 0;
};

}  // namespace vitrail
