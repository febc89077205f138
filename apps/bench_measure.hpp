#pragma once
// What the benchmarks share: repeated timing, numbers over ranks, and the ceilings that a result is held against.

#include <algorithm>
#include <cstdint>
#include <functional>
#include <vector>

#include "apps/machine.hpp"
#include "base/timer.hpp"

namespace vitrail {

/// The middle value, of an even number the mean of the middle two. Not of none.
double median(std::vector<double> values);

/// Seconds of each call of `work`: at least three calls, and as many as start within `budget_s`. One more call before.
template <class Work>
std::vector<double> time_calls(double budget_s, const Work& work) {
  work();
  std::vector<double> seconds;
  const Stopwatch all;
  while (seconds.size() < 3 || all.seconds() < budget_s) {
    const Stopwatch one;
    work();
    seconds.push_back(one.seconds());
  }
  return seconds;
}

/// Over all ranks, the same on all of them. Collective.
double sum_over_ranks(Communicator& world, double mine);
double largest_of_ranks(Communicator& world, double mine);

/// Seconds of a call of `work`, which puts work into the device's queue: several measurements within `budget_s`, of
/// several calls each where one is short. On a device without a queue of its own, as time_calls.
std::vector<double> time_in_queue(Device& device, double budget_s, const std::function<void()>& work);

/// Numbers in -1 .. 1 that depend on `stream` and the place alone, into an f32 or bf16 tensor of the device.
void fill_with_noise(Device& device, Tensor tensor, std::uint64_t stream);

/// A rate that all ranks reach at the same time, added up.
struct Rate {
  double median = 0;
  double best = 0;
};

/// GFLOP/s of products of square matrices through linear_forward, and on the cpu through oneDNN's own threading as
/// well.
struct SquareGemm {
  std::int64_t side = 0;
  Rate verb;
  Rate library;
};

/// Sides 512, 1024, 2048 and so on, on the cpu up to 2048 and on a GPU up to 8192, but those whose single product takes
/// more than twice the budget: large enough for a peak, the largest when there is time for it. Error (numbers) when a
/// product is wrong, (usage) when a GPU's memory is full. Collective.
std::vector<SquareGemm> measure_squares(const Machine& machine, int threads, double budget_s);
/// The largest median of all sides and both ways: what a training step is held against.
double gemm_ceiling(const std::vector<SquareGemm>& measured);

/// GB/s (1e9) of copying large blocks in the memory of the device, reads and writes added up. Collective.
Rate measure_copy(const Machine& machine, int threads, double budget_s);
/// Of the host's memory, each of `threads` threads in blocks of its own: by memcpy or by adding to what is there,
/// whichever moves more (a memcpy writes past the caches, or reads what it overwrites). Collective.
Rate measure_host_copy(int threads, double budget_s, Communicator& world);

/// Largest resident set of this process so far, in bytes; NaN where the system does not tell.
double peak_resident_bytes();
/// Now, from /proc/self/status.
double resident_bytes();
/// Seconds since this process was started; NaN where the system does not tell.
double process_age_s();

}  // namespace vitrail
