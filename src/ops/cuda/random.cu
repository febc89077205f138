// Normal numbers: Box-Muller in double, rounded once. A thread makes the four values of one Philox counter.

#include <numbers>

#include "device/cuda/launch.hpp"
#include "ops/cuda/cuda_ops.hpp"
#include "ops/cuda/stored.hpp"

namespace vitrail::cuda {

namespace {

constexpr int kThreads = 128;

// The uniform number of `bits`, as in base/philox.hpp.
__device__ double uniform(std::uint32_t bits) { return (static_cast<double>(bits) + 0.5) * 0x1p-32; }

/// y[i] = value skip + i of the counters from `first` on.
__global__ void __launch_bounds__(kThreads)
    draw_normals(Philox random, std::uint64_t first, int skip, float* y, std::int64_t n) {
  const std::int64_t counter = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  const auto words = random.words(first + static_cast<std::uint64_t>(counter));
#pragma unroll
  for (int pair = 0; pair < 4; pair += 2) {
    const double radius = sqrt(-2.0 * log(uniform(words[static_cast<std::size_t>(pair)])));
    const double angle = 2.0 * std::numbers::pi * uniform(words[static_cast<std::size_t>(pair) + 1]);
    const std::int64_t i = counter * 4 + pair - skip;
    if (i >= 0 && i < n) y[i] = static_cast<float>(radius * cos(angle));
    if (i + 1 >= 0 && i + 1 < n) y[i + 1] = static_cast<float>(radius * sin(angle));
  }
}

}  // namespace

void CudaOps::run(const RandomNormal& a) {
  const std::int64_t n = a.y.elements();
  if (n == 0) return;
  const auto skip = static_cast<int>(a.first_index % 4);
  const std::int64_t counters = (skip + n + 3) / 4;
  launch(draw_normals,
         {.grid = static_cast<unsigned>((counters + kThreads - 1) / kThreads), .block = kThreads, .stream = stream()},
         Philox(a.seed, a.purpose, a.step, a.layer), a.first_index / 4, skip, data_of<float>(a.y), n);
}

}  // namespace vitrail::cuda
