#pragma once
// Sorting by one block. Keys are pairs of a number that orders and a place that breaks ties, so they are distinct and
// what a sort gives does not depend on how it is done.

#include <bit>
#include <cstdint>

#include <cuda_runtime.h>

namespace vitrail::cuda {

/// Behind all other keys.
inline constexpr std::uint64_t kNoKey = ~std::uint64_t{0};

__device__ __forceinline__ std::uint64_t key_of(std::uint32_t high, std::int64_t place) {
  return (std::uint64_t{high} << 32) | static_cast<std::uint64_t>(place);
}
__device__ __forceinline__ int place_of(std::uint64_t key) { return static_cast<int>(key & 0x7FFFFFFFU); }
/// Ascending results are descending numbers; NaN counts as a large one, -0 as 0.
__device__ __forceinline__ std::uint32_t descending(float x) {
  const auto bits = std::bit_cast<std::uint32_t>(x + 0.0F);
  return (bits >> 31) != 0 ? bits : ~bits & 0x7FFFFFFFU;
}

/// Ascending, by all threads of a block (whole warps) that see `keys` after a barrier; n is a power of two. They see
/// the sorted keys when it returns. A bitonic network: log2(n) (log2(n) + 1) / 2 steps of n / 2 exchanges.
__device__ inline void sort_keys(std::uint64_t* keys, int n) {
  const int threads = static_cast<int>(blockDim.x);
  for (int run = 2; run <= n; run *= 2) {
    for (int stride = run / 2; stride > 0; stride /= 2) {
      for (int pair = static_cast<int>(threadIdx.x); pair < n / 2; pair += threads) {
        const int i = 2 * pair - (pair & (stride - 1));
        const std::uint64_t a = keys[i], b = keys[i + stride];
        if ((a > b) == ((i & run) == 0)) {
          keys[i] = b;
          keys[i + stride] = a;
        }
      }
      // The 32 pairs of a warp lie in the same 64 keys in all steps with strides up to 32.
      const int next = stride > 1 ? stride / 2 : run;
      if (stride > 32 || next > 32) {
        __syncthreads();
      } else {
        __syncwarp();
      }
    }
  }
  __syncthreads();
}

}  // namespace vitrail::cuda
