#pragma once
// Kernels for the tests of the emulation, right ones and wrong ones.

#include <cstdint>

#include "cuda_bf16.h"
#include "cuda_runtime.h"

namespace vitrail::emulated {

/// out[warp] = sum of the warp's 32 values, by shuffles.
__global__ void warp_sums(const float* in, float* out);

/// out[block] = sum of the block's values, through shared memory.
struct BlockSum {
  float of_warp[32];
};
__global__ void block_sums(const float* in, float* out);
/// The same without the barrier between the warps' writes and their reading.
__global__ void block_sums_without_barrier(const float* in, float* out);

__global__ void add(float* values, float increment, int count);

}  // namespace vitrail::emulated
