#pragma once
// Sums over the leaves of a pass, as every parameter gradient is one: ((l0 + l1) + (l2 + l3)) + ...

#include <cstdint>

#include <cuda_runtime.h>

namespace vitrail::cuda {

/// The tree over value(0) .. value(leaves - 1); leaves is a power of two.
template <class Value>
__device__ __forceinline__ float tree_of_leaves(int leaves, const Value& value) {
  if (leaves == 1) return value(0);
  if (leaves == 2) return value(0) + value(1);
  float waiting[30];  // at level k: a sum of 4 * 2^k leaves that waits for its sibling
  float sum = 0.0F;
  for (int quad = 0; quad < leaves / 4; ++quad) {
    sum = (value(4 * quad) + value(4 * quad + 1)) + (value(4 * quad + 2) + value(4 * quad + 3));
    int level = 0;
    for (; (quad >> level & 1) != 0; ++level) sum = waiting[level] + sum;
    waiting[level] = sum;
  }
  return sum;
}

/// Where entries first .. first+count-1 of a sum go.
struct SumPart {
  float* to = nullptr;
  std::int64_t first = 0;
  std::int64_t count = 0;
};

/// The tree over the leaves of sums [leaves n]; each of its n entries goes into the parts that want it.
void launch_tree_of_leaves(const float* sums, std::int64_t leaves, std::int64_t n, SumPart a, SumPart b,
                           cudaStream_t stream);

/// sums[leaf, i] = sum over p of addends[leaf, p, i] in a fixed order; addends [leaves count n].
void launch_sum_in_leaf(const float* addends, std::int64_t leaves, std::int64_t count, std::int64_t n, float* sums,
                        cudaStream_t stream);

}  // namespace vitrail::cuda
