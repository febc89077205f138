#include "device/cuda/launch.hpp"
#include "gpu_intrinsics.hpp"
#include "ops/cuda/leaf_sums.hpp"

namespace vitrail::cuda {

namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads)
    add_leaves(const float* sums, int leaves, std::int64_t n, SumPart a, SumPart b) {
  const std::int64_t i = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= n) return;
  const float sum = tree_of_leaves(leaves, [&](int leaf) { return sums[leaf * n + i]; });
  if (i >= a.first && i - a.first < a.count) a.to[i - a.first] = sum;
  if (i >= b.first && i - b.first < b.count) b.to[i - b.first] = sum;
}

constexpr int kSlices = 16;

struct Slices {
  float sum[kSlices][32];
};

// A warp adds every kSlices-th addend of 32 columns; then the warps' sums are added in order.
__global__ void __launch_bounds__(kSlices * 32)
    add_in_leaf(const float* addends, std::int64_t count, std::int64_t n, float* sums) {
  auto& shared = shared_memory<Slices>();
  const int slice = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const std::int64_t i = std::int64_t{blockIdx.x} * 32 + lane;
  const float* from = addends + std::int64_t{blockIdx.y} * count * n + i;
  float sum = 0.0F;
  if (i < n) {
#pragma unroll 4
    for (std::int64_t p = slice; p < count; p += kSlices) sum += from[p * n];
  }
  shared.sum[slice][lane] = sum;
  __syncthreads();
  if (slice != 0 || i >= n) return;
  for (int s = 1; s < kSlices; ++s) sum += shared.sum[s][lane];
  sums[blockIdx.y * n + i] = sum;
}

}  // namespace

void launch_tree_of_leaves(const float* sums, std::int64_t leaves, std::int64_t n, SumPart a, SumPart b,
                           cudaStream_t stream) {
  const auto blocks = static_cast<unsigned>((n + kThreads - 1) / kThreads);
  launch(add_leaves, {.grid = blocks, .block = kThreads, .stream = stream}, sums, static_cast<int>(leaves), n, a, b);
}

void launch_sum_in_leaf(const float* addends, std::int64_t leaves, std::int64_t count, std::int64_t n, float* sums,
                        cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>((n + 31) / 32), static_cast<unsigned>(leaves));
  launch(add_in_leaf, {.grid = grid, .block = kSlices * 32, .shared_bytes = sizeof(Slices), .stream = stream}, addends,
         count, n, sums);
}

}  // namespace vitrail::cuda
