#include "gpu_intrinsics.hpp"
#include "tests/emulated/kernels.hpp"

namespace vitrail::emulated {
namespace {

__device__ float warp_sum(float value) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(0xffffffffU, value, step);
  return value;
}

template <bool with_barrier>
__device__ void sum_block(const float* in, float* out) {
  auto& shared = shared_memory<BlockSum>();
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const float sum = warp_sum(in[blockIdx.x * blockDim.x + threadIdx.x]);
  if (lane == 0) shared.of_warp[warp] = sum;
  if (with_barrier) __syncthreads();
  const int warps = static_cast<int>(blockDim.x) / 32;
  if (warp == warps / 2) {
    const float total = warp_sum(lane < warps ? shared.of_warp[lane] : 0.0F);
    if (lane == 0) out[blockIdx.x] = total;
  }
}

}  // namespace

__global__ void warp_sums(const float* in, float* out) {
  const float sum = warp_sum(in[blockIdx.x * blockDim.x + threadIdx.x]);
  if (threadIdx.x % 32 == 0) out[(blockIdx.x * blockDim.x + threadIdx.x) / 32] = sum;
}

__global__ void block_sums(const float* in, float* out) { sum_block<true>(in, out); }
__global__ void block_sums_without_barrier(const float* in, float* out) { sum_block<false>(in, out); }

__global__ void add(float* values, float increment, int count) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < count) values[i] += increment;
}

}  // namespace vitrail::emulated
