#pragma once
// What the benchmarks share: repeated timing, numbers over ranks, and the ceilings that a result is held against.

#include <algorithm>
#include <cstdint>
#include <vector>

#include "base/timer.hpp"
#include "comm/communicator.hpp"
#include "device/tensor.hpp"
#include "ops/ops.hpp"

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

/// Numbers in -1 .. 1 that depend on `stream` and the place alone; f32 tensors.
void fill_with_noise(Tensor tensor, std::uint64_t stream);

/// A rate that all ranks reach at the same time, added up.
struct Rate {
  double median = 0;
  double best = 0;
};

/// GFLOP/s of products of square matrices: through linear_forward, and through oneDNN's own threading.
struct SquareGemm {
  std::int64_t side = 0;
  Rate verb;
  Rate library;
};
/// Collective. Error (numbers) when a product is wrong.
SquareGemm measure_square_gemm(std::int64_t side, int threads, Precision precision, double budget_s,
                               Communicator& world);

/// Sides 512, 1024 and 2048, but those whose single product takes more than twice the budget: large enough for a peak,
/// the largest when there is time for it. Collective.
std::vector<SquareGemm> measure_squares(int threads, Precision precision, double budget_s, Communicator& world);
/// The largest median of all sides and both ways: what a training step is held against.
double gemm_ceiling(const std::vector<SquareGemm>& measured);

/// GB/s (1e9) of copying large blocks in memory, reads and writes added up, each of `threads` threads in blocks of its
/// own. Collective.
Rate measure_copy(int threads, double budget_s, Communicator& world);

/// Largest resident set of this process so far, in bytes; NaN where the system does not tell.
double peak_resident_bytes();
/// Seconds since this process was started; NaN where the system does not tell.
double process_age_s();

}  // namespace vitrail
