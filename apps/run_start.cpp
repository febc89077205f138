#include "apps/run_start.hpp"

#include <algorithm>
#include <string_view>
#include <vector>

#include "base/timer.hpp"
#include "device/arena.hpp"

namespace vitrail {

namespace {

/// GFLOP/s of one product of square matrices after the other, best of what fits into the time.
double square_gflops(Device& device, Ops& ops, std::int64_t side, double budget_s) {
  Arena arena("gemm peak", device, side * side * (2 * size_of(ops.stored()) + size_of(ops.stored_weights())));
  const Tensor x = arena.allocate(ops.stored(), {1, 1, side, side});
  const Tensor w = arena.allocate(ops.stored_weights(), {1, side, side});
  const Tensor y = arena.allocate(ops.stored(), {1, 1, side, side});
  const auto multiply = [&] {
    ops.linear_forward({.x = x, .w = w, .b = {}, .residual = {}, .y = y});
    device.synchronize();
  };
  multiply();
  double best_s = 1e30;
  const Stopwatch all;
  do {
    const Stopwatch one;
    multiply();
    best_s = std::min(best_s, one.seconds());
  } while (all.seconds() < budget_s);
  return 2e-9 * static_cast<double>(side * side * side) / best_s;
}

/// The larger the product, the nearer is a GPU to its peak: sides are doubled while one product takes no time.
double gpu_gflops(Device& device, Ops& ops) {
  double best = 0;
  for (std::int64_t side = 512; side <= 8192; side *= 2) {
    try {
      const double rate = square_gflops(device, ops, side, 0.05);
      best = std::max(best, rate);
      if (2e-9 * static_cast<double>(side * side * side) / rate > 0.02) break;
    } catch (const Error& error) {  // the training has the memory; what was measured before will do
      if (error.code() != ExitCode::usage) throw;
      break;
    }
  }
  return best;
}

}  // namespace

bool wants_manual(int argc, const char* const* argv) {
  return std::any_of(argv + 1, argv + argc,
                     [](std::string_view word) { return word == "--help" || word == "-h" || word == "--version"; });
}

double measure_gemm_peak(const Machine& machine, int threads) {
  Communicator& world = machine.world();
  const Precision precision = machine.ops().precision();
  double gflops = 0;
  world.barrier();
  if (machine.device().kind() == DeviceKind::cuda) {
    const auto ops = make_cuda_ops(machine.device(), precision);  // the other one is sealed
    gflops = gpu_gflops(machine.device(), *ops);
  } else {
    const auto ops = make_cpu_ops(threads, precision);
    gflops = square_gflops(machine.device(), *ops, 1024, 0.5);
  }
  std::vector<double> ranks(static_cast<std::size_t>(world.size()));
  world.all_gather(ConstTensor(&gflops, {1}, Dtype::f64), Tensor(ranks.data(), {world.size()}, Dtype::f64));
  double sum = 0;
  for (const double rank : ranks) sum += rank;
  return sum;
}

}  // namespace vitrail
