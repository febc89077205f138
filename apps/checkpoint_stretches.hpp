#pragma once
// Tensors of checkpoints in stretches, so that the programs of one process need little memory whatever their size.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "train/checkpoint.hpp"

namespace vitrail {

/// Elements that are in memory at the same time, of one tensor: 8 MiB as f64.
inline constexpr std::int64_t kStretchElements = std::int64_t{1} << 20;

/// Calls work(first, count) for consecutive runs of at most kStretchElements elements.
template <class Work>
void in_stretches(std::int64_t elements, Work work) {
  for (std::int64_t first = 0; first < elements; first += kStretchElements) {
    work(first, std::min(kStretchElements, elements - first));
  }
}

/// Memory of a stretch, used again for the next.
class StretchBuffer {
 public:
  /// Elements of a tensor as they are stored; good until the next call.
  ConstTensor read(const CheckpointReader& from, const std::string& tensor, std::int64_t first, std::int64_t count) {
    const Dtype dtype = from.dtype(tensor);
    bytes_.resize(std::max(bytes_.size(), static_cast<std::size_t>(count * size_of(dtype))));
    const Tensor stretch(bytes_.data(), {count}, dtype);
    from.read(tensor, first, stretch);
    return stretch;
  }

 private:
  std::vector<std::byte> bytes_;
};

}  // namespace vitrail
