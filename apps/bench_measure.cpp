#include "apps/bench_measure.hpp"

#include <cmath>
#include <cstring>
#include <fstream>
#include <limits>
#include <memory>
#include <sstream>
#include <string>
#include <thread>

#include <unistd.h>

#include "apps/bench_check.hpp"
#include "device/arena.hpp"
#include "ops/cpu/whole_gemm.hpp"

namespace vitrail {

double median(std::vector<double> values) {
  VITRAIL_EXPECT(!values.empty(), ExitCode::other, "the median of no values", "this is a bug", "");
  std::sort(values.begin(), values.end());
  const std::size_t n = values.size();
  return n % 2 == 1 ? values[n / 2] : 0.5 * (values[n / 2 - 1] + values[n / 2]);
}

namespace {

std::vector<double> of_all_ranks(Communicator& world, double mine) {
  std::vector<double> ranks(static_cast<std::size_t>(world.size()));
  world.all_gather(ConstTensor(&mine, {1}, Dtype::f64), Tensor(ranks.data(), {world.size()}, Dtype::f64));
  return ranks;
}

/// Of `work` done in every call, from the seconds of calls on every rank.
Rate rate_of(double work, const std::vector<double>& seconds, Communicator& world) {
  return {sum_over_ranks(world, work / median(seconds)),
          sum_over_ranks(world, work / *std::min_element(seconds.begin(), seconds.end()))};
}

}  // namespace

double sum_over_ranks(Communicator& world, double mine) {
  double sum = 0;
  for (const double rank : of_all_ranks(world, mine)) sum += rank;
  return sum;
}

double largest_of_ranks(Communicator& world, double mine) {
  const std::vector<double> ranks = of_all_ranks(world, mine);
  return *std::max_element(ranks.begin(), ranks.end());
}

void fill_with_noise(Tensor tensor, std::uint64_t stream) {
  float* const values = tensor.as<float>();
  for (std::int64_t i = 0; i < tensor.elements(); ++i) {
    // splitmix64 (Steele, Lea, Flood 2014) of stream and place.
    std::uint64_t z = (stream << 40) + static_cast<std::uint64_t>(i) * 0x9E3779B97F4A7C15U;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9U;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBU;
    z ^= z >> 31;
    values[i] = static_cast<float>(static_cast<double>(z >> 40) * 0x1p-23 - 1.0);
  }
}

SquareGemm measure_square_gemm(std::int64_t side, int threads, Precision precision, double budget_s,
                               Communicator& world) {
  const auto ops = make_cpu_ops(threads, precision);
  const auto device = make_cpu_device();
  Arena arena("square matrices", *device, 3 * side * side * size_of(Dtype::f32) + 3 * 64);
  const Tensor x = arena.allocate(Dtype::f32, {1, 1, side, side});
  const Tensor w = arena.allocate(Dtype::f32, {1, side, side});
  const Tensor y = arena.allocate(Dtype::f32, {1, 1, side, side});
  fill_with_noise(x, 1);
  fill_with_noise(w, 2);
  const double gflop = 2e-9 * static_cast<double>(side * side * side);
  const LinearForward call{.x = x, .w = w, .b = {}, .residual = {}, .y = y};

  SquareGemm result{.side = side, .verb = {}, .library = {}};
  world.barrier();
  result.verb = rate_of(gflop, time_calls(budget_s, [&] { ops->linear_forward(call); }), world);
  check_linear(call, precision, "a square product");
  device->zero(y);
  world.barrier();
  const cpu::WholeGemm whole_gemm(threads, side, precision, x.as<float>(), w.as<float>());
  result.library = rate_of(gflop, time_calls(budget_s, [&] { whole_gemm.multiply(y.as<float>()); }), world);
  check_linear(call, precision, "a square product of the library");
  return result;
}

double gemm_ceiling(const std::vector<SquareGemm>& measured) {
  double ceiling = 0;
  for (const SquareGemm& one : measured) ceiling = std::max({ceiling, one.verb.median, one.library.median});
  return ceiling;
}

std::vector<SquareGemm> measure_squares(int threads, Precision precision, double budget_s, Communicator& world) {
  std::vector<SquareGemm> measured;
  for (const std::int64_t side : {512, 1024, 2048}) {
    if (!measured.empty()) {
      // The rates are the same numbers on every rank, and so is this decision.
      const double rank_gflops = measured.back().library.median / world.size();
      if (2e-9 * static_cast<double>(side * side * side) / rank_gflops > 2 * budget_s) break;
    }
    measured.push_back(measure_square_gemm(side, threads, precision, budget_s, world));
  }
  return measured;
}

Rate measure_copy(int threads, double budget_s, Communicator& world) {
  // Per rank 2 x 128 MiB: larger than the caches.
  const std::size_t bytes = (std::size_t{128} << 20) / static_cast<std::size_t>(threads) / 64 * 64;
  struct Block {
    std::unique_ptr<std::byte[]> from, to;
  };
  std::vector<Block> blocks(static_cast<std::size_t>(threads));
  const auto on_every_thread = [&](const auto& work) {
    std::vector<std::jthread> team;
    for (Block& block : blocks) team.emplace_back([&work, &block] { work(block); });
  };
  on_every_thread([&](Block& block) {  // first touch by the thread that will copy
    block.from = std::make_unique_for_overwrite<std::byte[]>(bytes);
    block.to = std::make_unique_for_overwrite<std::byte[]>(bytes);
    std::memset(block.from.get(), 0x5A, bytes);
    std::memset(block.to.get(), 0, bytes);
  });
  world.barrier();
  const auto seconds = time_calls(
      budget_s, [&] { on_every_thread([&](Block& block) { std::memcpy(block.to.get(), block.from.get(), bytes); }); });
  for (const Block& block : blocks) {
    VITRAIL_EXPECT(std::memcmp(block.from.get(), block.to.get(), bytes) == 0, ExitCode::numbers,
                   "a copy in memory differs from its source", "this machine is broken", "");
  }
  return rate_of(2e-9 * static_cast<double>(bytes) * threads, seconds, world);
}

double peak_resident_bytes() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("VmHWM:")) return 1024 * std::stod(line.substr(6));
  }
  return std::numeric_limits<double>::quiet_NaN();
}

double process_age_s() {
  std::ifstream stat("/proc/self/stat");
  std::ifstream uptime("/proc/uptime");
  std::string line;
  double up_s = 0;
  std::getline(stat, line);
  const std::size_t name_end = line.rfind(')');
  if (!(uptime >> up_s) || name_end == std::string::npos) return std::numeric_limits<double>::quiet_NaN();
  std::istringstream fields(line.substr(name_end + 1));  // from the third field; the start is the 22nd, in clock ticks
  std::string field;
  for (int i = 0; i < 20; ++i) fields >> field;
  return up_s - std::stod(field) / static_cast<double>(sysconf(_SC_CLK_TCK));
}

}  // namespace vitrail
