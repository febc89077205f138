// Random numbers in double, rounded once. A thread makes the four values of one Philox counter; normal ones are Box and
// Muller's.

#include <numbers>

#include "device/cuda/launch.hpp"
#include "ops/cuda/cuda_ops.hpp"
#include "ops/cuda/stored.hpp"

namespace vitrail::cuda {

namespace {

constexpr int kThreads = 128;

// The uniform number of `bits`, as in base/philox.hpp.
__device__ double uniform(std::uint32_t bits) { return (static_cast<double>(bits) + 0.5) * 0x1p-32; }

struct Four {
  double values[4];
};
__device__ Four normals_of(const Philox& random, std::uint64_t counter) {
  const auto words = random.words(counter);
  Four four;
#pragma unroll
  for (int pair = 0; pair < 4; pair += 2) {
    const double radius = sqrt(-2.0 * log(uniform(words[static_cast<std::size_t>(pair)])));
    const double angle = 2.0 * std::numbers::pi * uniform(words[static_cast<std::size_t>(pair) + 1]);
    four.values[pair] = radius * cos(angle);
    four.values[pair + 1] = radius * sin(angle);
  }
  return four;
}

/// y[i] = value skip + i of the counters from `first` on.
__global__ void __launch_bounds__(kThreads)
    draw_normals(Philox random, std::uint64_t first, int skip, float* y, std::int64_t n) {
  const std::int64_t counter = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  const Four drawn = normals_of(random, first + static_cast<std::uint64_t>(counter));
#pragma unroll
  for (int lane = 0; lane < 4; ++lane) {
    const std::int64_t i = counter * 4 + lane - skip;
    if (i >= 0 && i < n) y[i] = static_cast<float>(drawn.values[lane]);
  }
}

/// What initial_values draws, as in ops/training.hpp; `random` is that of step 0.
struct Initial {
  InitialValues::Number number;
  double scale;
  std::uint64_t seed;
  std::uint32_t tensor;
};

__device__ double drawn_until_inside(const Initial& a, double x, std::uint64_t index) {
  for (std::uint64_t step = 1; fabs(x) > InitialValues::kTruncatedAt; ++step) {
    const Philox random(a.seed, Purpose::initialisation, step, a.tensor);
    x = normals_of(random, index / 4).values[index % 4];
  }
  return x;
}

/// y[c,i] = number skip + i of the counters from `first` on, for all copies c.
__global__ void __launch_bounds__(kThreads) draw_initial_values(Initial a, Philox random, std::uint64_t first, int skip,
                                                                float* y, std::int64_t copies, std::int64_t n) {
  const std::int64_t counter = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (counter * 4 >= skip + n) return;
  const std::uint64_t here = first + static_cast<std::uint64_t>(counter);
  Four drawn{{1.0, 1.0, 1.0, 1.0}};
  if (a.number == InitialValues::Number::uniform) {
    const auto words = random.words(here);
#pragma unroll
    for (int lane = 0; lane < 4; ++lane)
      drawn.values[lane] = 2.0 * uniform(words[static_cast<std::size_t>(lane)]) - 1.0;
  } else if (a.number != InitialValues::Number::one) {
    drawn = normals_of(random, here);
  }
#pragma unroll
  for (int lane = 0; lane < 4; ++lane) {
    const std::int64_t i = counter * 4 + lane - skip;
    if (i < 0 || i >= n) continue;
    double x = drawn.values[lane];
    if (a.number == InitialValues::Number::truncated_normal)
      x = drawn_until_inside(a, x, here * 4 + static_cast<std::uint64_t>(lane));
    for (std::int64_t copy = 0; copy < copies; ++copy) y[copy * n + i] = static_cast<float>(a.scale * x);
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

void CudaOps::run(const InitialValues& a) {
  const std::int64_t copies = a.y.shape[0];
  const std::int64_t n = a.y.shape[1];
  if (a.y.elements() == 0) return;
  const auto skip = static_cast<int>(a.first_index % 4);
  const std::int64_t counters = (skip + n + 3) / 4;
  launch(draw_initial_values,
         {.grid = static_cast<unsigned>((counters + kThreads - 1) / kThreads), .block = kThreads, .stream = stream()},
         Initial{a.number, a.scale, a.seed, a.tensor}, Philox(a.seed, Purpose::initialisation, 0, a.tensor),
         a.first_index / 4, skip, data_of<float>(a.y), copies, n);
}

}  // namespace vitrail::cuda
