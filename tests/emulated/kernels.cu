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

__global__ void write_indices(int* values) {
  const auto flat = [](unsigned int x, unsigned int y, unsigned int z) {
    return static_cast<int>(x + 10 * y + 100 * z);
  };
  const unsigned int block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  const unsigned int thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  values[block * blockDim.x * blockDim.y * blockDim.z + thread] =
      flat(threadIdx.x, threadIdx.y, threadIdx.z) + 1000 * flat(blockIdx.x, blockIdx.y, blockIdx.z);
}

__global__ void exchange(int* out) {
  const int lane = static_cast<int>(threadIdx.x);
  const int value = 100 + lane;
  out[lane] = __shfl_sync(0xffffffffU, value, lane + 1);
  out[32 + lane] = __shfl_up_sync(0xffffffffU, value, 3);
  out[64 + lane] = __shfl_down_sync(0xffffffffU, value, 3, 8);
  out[96 + lane] = __shfl_xor_sync(0xffffffffU, value, 5, 16);
  out[128 + lane] = static_cast<int>(__ballot_sync(0xffffffffU, lane % 3 == 0));
  out[160 + lane] = __any_sync(0xffffffffU, lane == 7) + 2 * __any_sync(0xffffffffU, lane == 32);
  out[192 + lane] = __all_sync(0xffffffffU, lane < 32) + 2 * __all_sync(0xffffffffU, lane < 31);
  const double wide = __shfl_sync(0xffffffffU, 0.5 + lane, 31 - lane);
  out[224 + lane] = static_cast<int>(2.0 * wide);
}

__global__ void sum_parts(const int* in, int* out, int width) {
  const int lane = static_cast<int>(threadIdx.x);
  const unsigned int mask = ((1U << width) - 1) << (lane / width * width);
  int sum = in[lane];
  for (int step = width / 2; step > 0; step /= 2) sum += __shfl_xor_sync(mask, sum, step, width);
  out[lane] = sum;
}

__global__ void pass_round(int* values, int rounds) {
  auto& ring = shared_memory<Ring>();
  const int lane = static_cast<int>(threadIdx.x), lanes = static_cast<int>(blockDim.x);
  int* mine = values + blockIdx.x * blockDim.x + threadIdx.x;
  int value = *mine;
  for (int round = 0; round < rounds; ++round) {
    ring.value[lane] = value;
    __syncthreads();
    value = ring.value[(lane + 1) % lanes];
    __syncthreads();
  }
  *mine = value;
}

__global__ void count_threads(int* counts) {
  const int even = __syncthreads_count(threadIdx.x % 2 == 0);
  const int any = __syncthreads_or(threadIdx.x == 5), all = __syncthreads_and(threadIdx.x < 64);
  if (threadIdx.x == 0) {
    counts[0] = even;
    counts[1] = any;
    counts[2] = all;
  }
}

}  // namespace vitrail::emulated
