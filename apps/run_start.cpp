#include "apps/run_start.hpp"

#include <algorithm>
#include <string_view>
#include <vector>

#include "base/timer.hpp"
#include "device/arena.hpp"
#include "ops/cpu/cpu_isa.hpp"

namespace vitrail {

bool wants_manual(int argc, const char* const* argv) {
  return std::any_of(argv + 1, argv + argc,
                     [](std::string_view word) { return word == "--help" || word == "-h" || word == "--version"; });
}

Precision precision_of(const std::string& backend, const std::string& precision) {
  VITRAIL_EXPECT(precision == "f32" || precision == "bf16", ExitCode::usage, text("--precision ", precision),
                 "products are f32 or bf16", "");
  VITRAIL_EXPECT(precision == "f32" || backend == "cpu", ExitCode::usage,
                 text("--backend ", backend, " --precision ", precision),
                 "only the cpu back end rounds the inputs of its products", "Leave --precision out");
  return precision == "bf16" ? Precision::bf16 : Precision::f32;
}

std::unique_ptr<Ops> make_ops(const RunConfig& config, Communicator& world) {
  const Precision precision = precision_of(config.backend, config.precision);
  if (config.backend == "reference") return make_reference_ops(Dtype::f64);
  VITRAIL_EXPECT(config.backend == "cpu", ExitCode::usage, text("back end '", config.backend, "'"),
                 "the back ends are cpu and reference", "");
  VITRAIL_EXPECT(config.threads >= 1 && config.threads <= 1024, ExitCode::usage, text("--threads ", config.threads),
                 "every rank needs 1 to 1024 threads", "");
  std::int64_t level = cpu_isa_level();
  world.all_min({&level, 1});
  pin_cpu_isa(static_cast<int>(level));
  return make_cpu_ops(static_cast<int>(config.threads), precision);
}

double measure_gemm_peak(int threads, Precision precision, Communicator& world) {
  const auto ops = make_cpu_ops(threads, precision);
  const auto device = make_cpu_device();
  constexpr std::int64_t side = 1024;
  Arena arena("gemm peak", *device, 3 * side * side * size_of(Dtype::f32));
  const Tensor x = arena.allocate(Dtype::f32, {1, 1, side, side});
  const Tensor w = arena.allocate(Dtype::f32, {1, side, side});
  const Tensor y = arena.allocate(Dtype::f32, {1, 1, side, side});
  const auto multiply = [&] { ops->linear_forward({.x = x, .w = w, .b = {}, .residual = {}, .y = y}); };
  multiply();
  world.barrier();
  double best_s = 1e30;
  const Stopwatch all;
  while (all.seconds() < 0.5) {
    const Stopwatch one;
    multiply();
    best_s = std::min(best_s, one.seconds());
  }
  const double gflops = 2e-9 * static_cast<double>(side * side * side) / best_s;
  std::vector<double> ranks(static_cast<std::size_t>(world.size()));
  world.all_gather(ConstTensor(&gflops, {1}, Dtype::f64), Tensor(ranks.data(), {world.size()}, Dtype::f64));
  double sum = 0;
  for (const double rank : ranks) sum += rank;
  return sum;
}

}  // namespace vitrail
