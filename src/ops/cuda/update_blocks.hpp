#pragma once
// What the updates of parameters have in common: how gradients are scaled, how moments are rounded, and how four
// elements of a run are read and written where a run may begin and end anywhere.

#include <cstdint>
#include <limits>

#include "ops/cuda/fours.hpp"

namespace vitrail::cuda {

__device__ __forceinline__ float rounded_to_bf16(float x) { return to_float(from_float<Bfloat16>(x)); }

/// The scalars that an update finds on the device.
struct StepScalars {
  const double* gradient_scale;  // or null: 1
  const std::int32_t* halt;      // or null: 0

  [[nodiscard]] __device__ bool halted() const { return halt != nullptr && *halt != 0; }
  [[nodiscard]] __device__ float scale(double multiplier) const {
    return static_cast<float>(multiplier * (gradient_scale != nullptr ? *gradient_scale : 1.0));
  }
};

template <class Step>
StepScalars scalars_of(const Step& a) {
  return {data_of<double>(a.gradient_scale), data_of<std::int32_t>(a.halt)};
}

/// The limit of an element's gradient; none: infinity.
inline float clip_of(double clip_absolute) {
  return clip_absolute > 0.0 ? static_cast<float>(clip_absolute) : std::numeric_limits<float>::infinity();
}

/// x brought into -clip .. clip; NaN stays NaN.
__device__ __forceinline__ float clipped(float x, float clip) { return x > clip ? clip : (x < -clip ? -clip : x); }

/// Momentum as the step decays and stores it.
struct Momentum {
  float decay;  // rounded to bfloat16 if `bf16`
  bool bf16;
  [[nodiscard]] __device__ float decayed(float m) const { return bf16 ? rounded_to_bf16(decay * m) : decay * m; }
  [[nodiscard]] __device__ float stored(float m) const { return bf16 ? rounded_to_bf16(m) : m; }
};

/// parameter - learning_rate * (u + decay * parameter)
__device__ __forceinline__ float moved(float parameter, float u, float decay, float learning_rate) {
  return fmaf(-learning_rate, fmaf(decay, parameter, u), parameter);
}

/// Elements i .. i+3 of a run begin .. end-1, those outside of it 0. `aligned`: x + i is aligned to four elements.
template <bool aligned>
__device__ __forceinline__ Four load_in_run(const float* x, std::int64_t i, std::int64_t begin, std::int64_t end) {
  if (aligned && i >= begin && i + 4 <= end) return load_four<true>(x, i, end);
  Four four{};
#pragma unroll
  for (int j = 0; j < 4; ++j) four.v[j] = i + j >= begin && i + j < end ? x[i + j] : 0.0F;
  return four;
}
template <bool aligned>
__device__ __forceinline__ void store_in_run(const Four& four, float* x, std::int64_t i, std::int64_t begin,
                                             std::int64_t end) {
  if (aligned && i >= begin && i + 4 <= end) return store_four<true>(four, x, i, end);
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    if (i + j >= begin && i + j < end) x[i + j] = four.v[j];
  }
}

/// The number of the last of `count` ascending begins that is not behind `place`; at least one must be.
__device__ __forceinline__ int last_begin(const std::int64_t* begins, int count, std::int64_t place) {
  int low = 0, high = count;  // the answer is in low .. high-1
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    if (begins[middle] <= place) {
      low = middle;
    } else {
      high = middle;
    }
  }
  return low;
}

/// The sum of a block's threads, in the first: warps by a tree, then warp after warp.
template <int warps>
__device__ double sum_of_block(double value, double (&of_warps)[warps]) {
#pragma unroll
  for (int mask = 16; mask > 0; mask /= 2) value += __shfl_xor_sync(0xFFFFFFFFU, value, mask);
  if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = value;
  __syncthreads();
  double sum = of_warps[0];
  for (int w = 1; w < warps; ++w) sum += of_warps[w];
  return sum;
}

}  // namespace vitrail::cuda
