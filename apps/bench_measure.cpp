#include "apps/bench_measure.hpp"

#include <cmath>
#include <cstring>
#include <fstream>
#include <limits>
#include <sstream>
#include <string>
#include <string_view>
#include <thread>

#include <unistd.h>

#include "apps/bench_check.hpp"
#include "base/bf16.hpp"
#include "device/arena.hpp"
#include "device/queue_clock.hpp"
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

std::vector<double> time_in_queue(Device& device, double budget_s, const std::function<void()>& work) {
  if (!device.asynchronous()) return time_calls(budget_s, work);
  constexpr double kLongS = 1e-3;  // the clock and the start of a first call are far finer
  const auto clock = make_queue_clock(device);
  const auto seconds_of = [&](std::int64_t calls) {
    const std::size_t from = clock->read();
    for (std::int64_t i = 0; i < calls; ++i) work();
    const std::size_t to = clock->read();
    device.synchronize();
    return clock->seconds(from, to);
  };
  (void)seconds_of(1);
  const double once_s = seconds_of(1);
  const auto calls = static_cast<std::int64_t>(std::clamp(kLongS / std::max(once_s, 1e-7), 1.0, 1000.0));
  std::vector<double> seconds;
  const Stopwatch all;
  while (seconds.size() < 3 || all.seconds() < budget_s) {
    clock->reset();
    seconds.push_back(seconds_of(calls) / static_cast<double>(calls));
  }
  return seconds;
}

namespace {

// splitmix64 (Steele, Lea, Flood 2014) of stream and place.
double noise(std::uint64_t stream, std::int64_t i) {
  std::uint64_t z = (stream << 40) + static_cast<std::uint64_t>(i) * 0x9E3779B97F4A7C15U;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9U;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBU;
  z ^= z >> 31;
  return static_cast<double>(z >> 40) * 0x1p-23 - 1.0;
}

/// Into host memory.
void write_noise(Tensor tensor, std::uint64_t stream) {
  if (tensor.dtype == Dtype::bf16) {
    for (std::int64_t i = 0; i < tensor.elements(); ++i) tensor.as<Bf16>()[i] = to_bf16(noise(stream, i));
    return;
  }
  float* const values = tensor.as<float>();
  for (std::int64_t i = 0; i < tensor.elements(); ++i) values[i] = static_cast<float>(noise(stream, i));
}

}  // namespace

void fill_with_noise(Device& device, Tensor tensor, std::uint64_t stream) {
  if (!tensor) return;  // of an arena that only measures
  if (tensor.device == DeviceKind::cpu) return write_noise(tensor, stream);
  std::vector<std::byte> bytes(static_cast<std::size_t>(tensor.bytes()));
  const Tensor host(bytes.data(), tensor.shape, tensor.dtype);
  write_noise(host, stream);
  device.copy(host, tensor);
}

namespace {

/// A product of square matrices of noise.
struct Square {
  Square(Device& device, std::int64_t side, Dtype stored, Dtype weights)
      : arena("square matrices", device, side * side * (2 * size_of(stored) + size_of(weights)) + kPadding),
        x(arena.allocate(stored, {1, 1, side, side})),
        w(arena.allocate(weights, {1, side, side})),
        y(arena.allocate(stored, {1, 1, side, side})) {
    fill_with_noise(device, x, 1);
    fill_with_noise(device, w, 2);
  }
  [[nodiscard]] LinearForward call() const { return {.x = x, .w = w, .b = {}, .residual = {}, .y = y}; }

  static constexpr std::int64_t kPadding = 192;  // a cache line for each of the three
  Arena arena;
  Tensor x, w, y;
};

SquareGemm measure_square(std::int64_t side, const Machine& machine, Ops& ops, int threads, double budget_s) {
  Device& device = machine.device();
  const double gflop = 2e-9 * static_cast<double>(side * side * side);
  SquareGemm result{.side = side, .verb = {}, .library = {}};
  {
    const Square square(device, side, ops.stored(), ops.stored_weights());
    machine.world().barrier();
    const auto seconds = time_in_queue(device, budget_s, [&] { ops.linear_forward(square.call()); });
    result.verb = rate_of(gflop, seconds, machine.world());
    check_linear(device, square.call(), ops.precision(), "a square product");
  }
  if (device.kind() != DeviceKind::cpu) return result;
  const Square square(device, side, Dtype::f32, Dtype::f32);
  const cpu::WholeGemm whole_gemm(threads, side, ops.precision(), square.x.as<float>(), square.w.as<float>());
  machine.world().barrier();
  const auto seconds = time_calls(budget_s, [&] { whole_gemm.multiply(square.y.as<float>()); });
  result.library = rate_of(gflop, seconds, machine.world());
  check_linear(device, square.call(), ops.precision(), "a square product of the library");
  return result;
}

}  // namespace

double gemm_ceiling(const std::vector<SquareGemm>& measured) {
  double ceiling = 0;
  for (const SquareGemm& one : measured) ceiling = std::max({ceiling, one.verb.median, one.library.median});
  return ceiling;
}

std::vector<SquareGemm> measure_squares(const Machine& machine, int threads, double budget_s) {
  const bool gpu = machine.device().kind() == DeviceKind::cuda;
  const Precision precision = machine.ops().precision();
  // Not the run's own: it may be sealed.
  const auto ops = gpu ? make_cuda_ops(machine.device(), precision) : make_cpu_ops(threads, precision);
  std::vector<SquareGemm> measured;
  for (std::int64_t side = 512; side <= (gpu ? 8192 : 2048); side *= 2) {
    if (!measured.empty()) {
      // The rates are the same numbers on every rank, and so is this decision.
      const Rate& last = gpu ? measured.back().verb : measured.back().library;
      const double rank_gflops = last.median / machine.world().size();
      if (2e-9 * static_cast<double>(side * side * side) / rank_gflops > 2 * budget_s) break;
    }
    measured.push_back(measure_square(side, machine, *ops, threads, budget_s));
  }
  return measured;
}

Rate measure_copy(const Machine& machine, int threads, double budget_s) {
  Device& device = machine.device();
  if (device.kind() == DeviceKind::cpu) return measure_host_copy(threads, budget_s, machine.world());
  constexpr std::int64_t kBytes = std::int64_t{256} << 20;  // far larger than the caches
  Arena arena("copy", device, 2 * kBytes);
  const Tensor from = arena.allocate(Dtype::u8, {kBytes});
  const Tensor to = arena.allocate(Dtype::u8, {kBytes});
  fill_with_noise(device, Tensor(from.data, {kBytes / 4}, Dtype::f32, from.device), 3);
  machine.world().barrier();
  return rate_of(2e-9 * kBytes, time_in_queue(device, budget_s, [&] { device.copy(from, to); }), machine.world());
}

Rate measure_host_copy(int threads, double budget_s, Communicator& world) {
  // Per rank 2 x 128 MiB: larger than the caches. Of huge pages, as tensors are.
  const std::int64_t floats = (std::int64_t{128} << 20) / threads / 4 / 16 * 16;
  const auto host = make_cpu_device();
  Arena arena("copy", *host, 8 * floats * threads);
  struct Block {
    float *from, *to;
  };
  std::vector<Block> blocks;
  for (int thread = 0; thread < threads; ++thread) {
    float* const from = arena.allocate(Dtype::f32, {floats}).as<float>();
    blocks.push_back({from, arena.allocate(Dtype::f32, {floats}).as<float>()});
  }
  const auto on_every_thread = [&](const auto& work) {
    std::vector<std::jthread> team;
    team.reserve(blocks.size());
    for (const Block& block : blocks) team.emplace_back([&work, block] { work(block.from, block.to); });
  };
  on_every_thread([&](float* from, float* to) {  // first touch by the thread that will copy
    std::fill_n(from, floats, 0.5F);
    std::fill_n(to, floats, 0.0F);
  });
  world.barrier();
  const auto bytes = static_cast<std::size_t>(floats) * sizeof(float);
  const auto copied =
      time_calls(budget_s / 2, [&] { on_every_thread([&](float* from, float* to) { std::memcpy(to, from, bytes); }); });
  for (const Block& block : blocks) {
    VITRAIL_EXPECT(std::memcmp(block.from, block.to, bytes) == 0, ExitCode::numbers,
                   "a copy in memory differs from its source", "this machine is broken", "");
  }
  world.barrier();
  const auto added = time_calls(budget_s / 2, [&] {
    on_every_thread([&](const float* from, float* to) {
      for (std::int64_t i = 0; i < floats; ++i) to[i] += from[i];
    });
  });
  const double GB = 4e-9 * static_cast<double>(floats) * threads;
  const Rate copy = rate_of(2 * GB, copied, world);
  const Rate add = rate_of(3 * GB, added, world);
  return add.median > copy.median ? add : copy;
}

namespace {
/// A line of /proc/self/status that is in kB.
double status_bytes(std::string_view name) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with(name)) return 1024 * std::stod(line.substr(name.size()));
  }
  return std::numeric_limits<double>::quiet_NaN();
}
}  // namespace

double peak_resident_bytes() { return status_bytes("VmHWM:"); }
double resident_bytes() { return status_bytes("VmRSS:"); }

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
