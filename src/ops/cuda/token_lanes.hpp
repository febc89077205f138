#pragma once
// One token's experts across the lanes of a warp, or of a quarter of one where there are few experts: lane l holds
// experts l, l + kLanes, ... in registers. All lanes of a warp must call these functions together.

#include <cmath>
#include <cstdint>

#include <cuda_runtime.h>

#include "base/error.hpp"

namespace vitrail::cuda {

inline constexpr unsigned kAllLanes = 0xFFFFFFFFU;
inline constexpr int kTokenThreads = 256;  // of a block

/// Calls work.operator()<kLanes, kPerLane>() with room for so many experts: kLanes * kPerLane >= experts.
template <class Work>
void dispatch_experts(std::int64_t experts, Work&& work) {
  if (experts <= 8) return work.template operator()<8, 1>();
  if (experts <= 32) return work.template operator()<32, 1>();
  if (experts <= 64) return work.template operator()<32, 2>();
  if (experts <= 128) return work.template operator()<32, 4>();
  if (experts <= 256) return work.template operator()<32, 8>();
  VITRAIL_EXPECT(experts <= 1024, ExitCode::usage, text("a router with ", experts, " experts"),
                 "the cuda back end keeps the gates of a token in registers: at most 1024", "Use fewer experts");
  work.template operator()<32, 32>();
}

/// The place of this thread's token in the grid, `lane` of the token's lanes.
template <int kLanes>
struct TokenLane {
  __device__ TokenLane()
      : token((std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x) / kLanes),
        lane(static_cast<int>(threadIdx.x) % kLanes) {}
  std::int64_t token;
  int lane;
};
/// Blocks of kTokenThreads for so many tokens.
template <int kLanes>
dim3 token_blocks(std::int64_t tokens) {
  return dim3(static_cast<unsigned>((tokens * kLanes + kTokenThreads - 1) / kTokenThreads));
}

/// Over the kLanes lanes of a token, in a fixed order; every lane gets the result.
template <int kLanes, class T>
__device__ __forceinline__ T sum_of(T x) {
#pragma unroll
  for (int distance = kLanes / 2; distance > 0; distance /= 2) x += __shfl_xor_sync(kAllLanes, x, distance);
  return x;
}
/// NaN is left out where there is another number.
template <int kLanes>
__device__ __forceinline__ float largest_of(float x) {
#pragma unroll
  for (int distance = kLanes / 2; distance > 0; distance /= 2) x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, distance));
  return x;
}

/// log of sum of exp(z), and p = softmax(z); z past the experts is not looked at.
template <int kLanes, int kPerLane>
__device__ __forceinline__ float softmax(const float (&z)[kPerLane], int lane, int experts, float (&p)[kPerLane]) {
  float top = -INFINITY;
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    if (lane + kLanes * i < experts) top = fmaxf(top, z[i]);
  }
  top = largest_of<kLanes>(top);
  float total = 0.0F;
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    p[i] = lane + kLanes * i < experts ? expf(z[i] - top) : 0.0F;
    total += p[i];
  }
  total = sum_of<kLanes>(total);
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) p[i] /= total;
  return top + logf(total);
}

/// A token's row of [tokens E]; 0 past the experts.
template <int kLanes, int kPerLane, class T>
__device__ __forceinline__ void load_experts(const T* row, int lane, int experts, float (&v)[kPerLane]) {
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) v[i] = lane + kLanes * i < experts ? row[lane + kLanes * i] : 0.0F;
}
template <int kLanes, int kPerLane>
__device__ __forceinline__ void store_experts(const float (&v)[kPerLane], int lane, int experts, float* row) {
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    if (lane + kLanes * i < experts) row[lane + kLanes * i] = v[i];
  }
}

}  // namespace vitrail::cuda
