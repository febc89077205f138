#pragma once
// Tensors that are made of other tensors: under other names, in other shapes, with axes in another order, joined or
// split. The list of parts says how; this is how a file of other software is read as if it held our tensors, and, with
// the list turned round, how ours are read as if they were that software's.

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "convert/tensors.hpp"

namespace vitrail {

/// A run of elements of a tensor `to` that are, perhaps in another order, a run of elements of a tensor `from`. Those
/// of `to` are seen as [lead a b c], those of `from` as [lead c b a]: a matrix and its transpose (b = 1), one for each
/// expert (lead); the patches of an embedding [rows*columns channels width] and [width channels rows*columns]. With at
/// most one of a, b and c above 1 the order is the same.
struct TensorPart {
  friend bool operator==(const TensorPart&, const TensorPart&) = default;

  std::string to;
  Shape to_shape;  ///< of the whole tensor
  std::string from;
  Shape from_shape;  ///< of the whole tensor
  std::int64_t to_first = 0;
  std::int64_t from_first = 0;
  std::int64_t lead = 1, a = 1, b = 1, c = 1;

  [[nodiscard]] std::int64_t block() const { return a * b * c; }
  [[nodiscard]] std::int64_t elements() const { return lead * block(); }
  [[nodiscard]] bool same_order() const { return (a > 1) + (b > 1) + (c > 1) <= 1; }
};

/// The parts by which `from` is made of `to`.
std::vector<TensorPart> turned_round(const std::vector<TensorPart>& parts);

/// The tensors `to` of a list of parts, in its order, read from a source that has the tensors `from`. Elements that no
/// part covers are 0. Holds one block [a b c] in memory, twice while it is turned. Error (checkpoint) when the parts
/// of one tensor have several dtypes.
class MappedSource : public TensorSource {
 public:
  /// `from` must outlive it; it has the tensors of the parts (expect_tensors).
  MappedSource(TensorSource& from, std::vector<TensorPart> parts);

  [[nodiscard]] std::span<const TensorInfo> tensors() const override { return tensors_; }
  void read(const std::string& name, std::int64_t first, Tensor to) override;

 private:
  /// Elements first .. of the run of a part, in the order of `to`.
  void read_part(const TensorPart& part, std::int64_t first, Tensor to);
  /// Block `index` of a part, in the order of `to`.
  const std::byte* block(const TensorPart& part, std::int64_t index, Dtype dtype);

  TensorSource& from_;
  std::vector<TensorPart> parts_;
  std::vector<TensorInfo> tensors_;
  std::map<std::string, std::vector<std::size_t>> parts_of_;  ///< indices into parts_, by tensor
  std::map<std::string, Dtype> dtypes_;                       ///< by tensor
  std::vector<std::byte> block_;                              ///< the block that was read last ...
  const TensorPart* block_part_ = nullptr;                    ///< ... which is of this part
  std::int64_t block_index_ = 0;
};

/// Error (checkpoint) naming `file`, the tensor and, where there is one, the name that was perhaps meant, unless
/// `tensors` has every tensor `from` of the parts, in its shape, and no other one.
void expect_tensors(const std::vector<TensorPart>& parts, std::span<const TensorInfo> tensors, const std::string& file);

/// Copies all tensors of a source, in its order, in stretches of at most 16 MiB. The sink was made with its list.
void copy_tensors(TensorSource& from, TensorSink& to);

}  // namespace vitrail
