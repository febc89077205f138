#pragma once
// Runs of elements that one lane loads or stores at once, as f32 in registers.

#include <bit>
#include <cstdint>
#include <cstring>

#include <cuda_runtime.h>

#include "ops/cuda/stored.hpp"

namespace vitrail::cuda {

__device__ __forceinline__ float low_half(std::uint32_t pair) { return std::bit_cast<float>(pair << 16); }
__device__ __forceinline__ float high_half(std::uint32_t pair) { return std::bit_cast<float>(pair & 0xFFFF0000U); }
__device__ __forceinline__ std::uint32_t pair_of(float low, float high) {
  const __nv_bfloat162 both = __float22bfloat162_rn(make_float2(low, high));
  std::uint32_t bits;
  std::memcpy(&bits, &both, sizeof(bits));
  return bits;
}

/// n consecutive elements: 1, or 4 or 8 that are aligned as one access (as two of 16 bytes for 8 f32).
template <int n>
__device__ __forceinline__ void load(const float* from, float (&v)[n]) {
  if constexpr (n == 1) {
    v[0] = *from;
  } else {
#pragma unroll
    for (int i = 0; i < n; i += 4) {
      const float4 four = *reinterpret_cast<const float4*>(from + i);
      v[i] = four.x, v[i + 1] = four.y, v[i + 2] = four.z, v[i + 3] = four.w;
    }
  }
}
template <int n>
__device__ __forceinline__ void load(const Bfloat16* from, float (&v)[n]) {
  if constexpr (n == 1) {
    v[0] = to_float(*from);
  } else if constexpr (n == 4) {
    const uint2 four = *reinterpret_cast<const uint2*>(from);
    v[0] = low_half(four.x), v[1] = high_half(four.x), v[2] = low_half(four.y), v[3] = high_half(four.y);
  } else {
    static_assert(n == 8);
    const uint4 eight = *reinterpret_cast<const uint4*>(from);
    v[0] = low_half(eight.x), v[1] = high_half(eight.x), v[2] = low_half(eight.y), v[3] = high_half(eight.y);
    v[4] = low_half(eight.z), v[5] = high_half(eight.z), v[6] = low_half(eight.w), v[7] = high_half(eight.w);
  }
}

template <int n>
__device__ __forceinline__ void store(const float (&v)[n], float* to) {
  if constexpr (n == 1) {
    *to = v[0];
  } else {
#pragma unroll
    for (int i = 0; i < n; i += 4) *reinterpret_cast<float4*>(to + i) = make_float4(v[i], v[i + 1], v[i + 2], v[i + 3]);
  }
}
/// Rounded to nearest, ties to even.
template <int n>
__device__ __forceinline__ void store(const float (&v)[n], Bfloat16* to) {
  if constexpr (n == 1) {
    *to = from_float<Bfloat16>(v[0]);
  } else if constexpr (n == 4) {
    *reinterpret_cast<uint2*>(to) = make_uint2(pair_of(v[0], v[1]), pair_of(v[2], v[3]));
  } else {
    static_assert(n == 8);
    *reinterpret_cast<uint4*>(to) =
        make_uint4(pair_of(v[0], v[1]), pair_of(v[2], v[3]), pair_of(v[4], v[5]), pair_of(v[6], v[7]));
  }
}

}  // namespace vitrail::cuda
