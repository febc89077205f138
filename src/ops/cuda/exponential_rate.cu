#include <algorithm>

#include "device/arena.hpp"
#include "device/cuda/cuda_device.hpp"
#include "device/cuda/launch.hpp"
#include "device/queue_clock.hpp"
#include "gpu_intrinsics.hpp"
#include "ops/exponential_rate.hpp"

namespace vitrail {

namespace cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kChains = 8;       // of a thread; each waits for its own last exponential
constexpr int kBlocksPerSm = 8;  // all that fit
constexpr double kLongEnoughS = 1e-3;
constexpr int kMostRounds = 1 << 20;

// x <- 2^-x in every chain, which ends at 0.64...; the sum is written, so that no exponential can be left out.
__global__ void __launch_bounds__(kThreads) exponentials_kernel(float* sums, int rounds) {
  float x[kChains];
#pragma unroll
  for (int i = 0; i < kChains; ++i) x[i] = 0.125f * static_cast<float>(i);
  for (int round = 0; round < rounds; ++round) {
#pragma unroll
    for (int i = 0; i < kChains; ++i) x[i] = exp2_approx(-x[i]);
  }
  float sum = 0;
#pragma unroll
  for (int i = 0; i < kChains; ++i) sum += x[i];
  sums[blockIdx.x * static_cast<unsigned>(kThreads) + threadIdx.x] = sum;
}

}  // namespace
}  // namespace cuda

double exponentials_per_second(Device& gpu) {
  using namespace cuda;
  const StreamDevice& device = stream_device(gpu);
  const auto blocks = static_cast<unsigned>(device.properties().multiProcessorCount * kBlocksPerSm);
  Arena arena("exponentials", gpu, std::int64_t{blocks} * kThreads * size_of(Dtype::f32));
  const Tensor sums = arena.allocate(Dtype::f32, {std::int64_t{blocks} * kThreads});
  const auto clock = make_queue_clock(gpu);
  const auto seconds_of = [&](int rounds) {
    const std::size_t from = clock->read();
    launch(exponentials_kernel, {.grid = dim3(blocks), .block = dim3(kThreads), .stream = device.stream()},
           sums.as<float>(), rounds);
    const std::size_t to = clock->read();
    gpu.synchronize();
    return clock->seconds(from, to);
  };
  int rounds = 1;
  while (seconds_of(rounds) < kLongEnoughS && rounds < kMostRounds) rounds *= 2;
  const double best_s = std::min({seconds_of(rounds), seconds_of(rounds), seconds_of(rounds)});
  return static_cast<double>(sums.elements()) * kChains * rounds / best_s;
}

}  // namespace vitrail
