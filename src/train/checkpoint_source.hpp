#pragma once
// A checkpoint as a list of tensors, as other software's files are.

#include <vector>

#include "convert/tensors.hpp"
#include "train/checkpoint.hpp"

namespace vitrail {

class CheckpointSource : public TensorSource {
 public:
  /// All tensors, under their names in the checkpoint: "parameters/head/bias". `reader` must outlive it.
  explicit CheckpointSource(const CheckpointReader& reader);

  [[nodiscard]] std::span<const TensorInfo> tensors() const override { return tensors_; }
  void read(const std::string& name, std::int64_t first, Tensor to) override { reader_.read(name, first, to); }

 private:
  const CheckpointReader& reader_;
  std::vector<TensorInfo> tensors_;
};

}  // namespace vitrail
