#include "apps/bench_exchange.hpp"

#include <cmath>
#include <cstdio>
#include <cstring>

#include "apps/bench_measure.hpp"
#include "apps/bench_options.hpp"
#include "apps/progress.hpp"
#include "device/arena.hpp"

namespace vitrail {

namespace {

constexpr const char* kManual =
    "Times the exchange that a sparse layer makes: an all-to-all of equal parts among the ranks that share one copy of "
    "all\n"
    "experts. All such groups of ranks exchange at the same time. Every part is checked where it arrives.\n"
    "\n"
    "  mpirun -np 2 vitrail-bench exchange\n"
    "  mpirun -np 8 vitrail-bench exchange --expert-parallel 4 --bytes 65536 1048576\n"
    "\n"
    "Payload GB/s counts every byte that arrives on a rank, from itself too, over all ranks. Its ceiling on one node "
    "is half\n"
    "the copy bandwidth (a byte is read and written once), measured in the same run; between nodes it is the "
    "network's.\n"
    "\n"
    "Exit codes: 0 done; 2 usage; 5 a byte arrived wrong.";

struct Settings {
  BenchSettings bench;
  std::vector<std::int64_t> bytes = {1 << 10, 1 << 13, 1 << 16, 1 << 19, 1 << 22};
  std::int64_t expert_parallel = 0;
};

/// What rank `from` sends to `to` of its group at place i: different for every size.
std::uint64_t word(std::int64_t from, std::int64_t to, std::int64_t i, std::int64_t words) {
  std::uint64_t z = static_cast<std::uint64_t>(from << 44 ^ to << 32 ^ i) + static_cast<std::uint64_t>(words) * 977;
  z = (z ^ (z >> 29)) * 0xBF58476D1CE4E5B9U;
  return z ^ (z >> 32);
}

struct Measured {
  double median_s = 0;  // of the slowest rank in each call
  double best_s = 0;
  std::int64_t calls = 0;
  double copy_s = 0;  // median of copying as many bytes inside a rank, of the slowest rank
};

/// `words` i64 per pair of ranks.
Measured time_exchange(Communicator& world, Communicator& group, std::int64_t words, double budget_s) {
  const std::int64_t n = group.size();
  const auto device = make_cpu_device();
  Arena arena("exchange", *device, 2 * (n * words * 8 + 64));
  const Tensor from = arena.allocate(Dtype::i64, {n, words});
  const Tensor to = arena.allocate(Dtype::i64, {n, words});
  for (std::int64_t r = 0; r < n; ++r) {
    for (std::int64_t i = 0; i < words; ++i) {
      const std::uint64_t value = word(group.rank(), r, i, words);
      std::memcpy(from.as<std::int64_t>() + r * words + i, &value, sizeof value);
    }
  }

  // The number of calls is agreed: collectives need every rank.
  const auto once = [&] {
    world.barrier();
    const Stopwatch clock;
    group.all_to_all(from, to);
    return clock.seconds();
  };
  (void)once();
  const double first_s = largest_of_ranks(world, once());
  const auto calls = static_cast<std::size_t>(std::clamp(budget_s / std::max(first_s, 1e-7), 5.0, 2000.0));
  std::vector<std::int64_t> slowest_ns(calls);
  for (std::int64_t& ns : slowest_ns) ns = std::llround(1e9 * once());
  world.all_max(slowest_ns);

  for (std::int64_t r = 0; r < n; ++r) {
    for (std::int64_t i = 0; i < words; ++i) {
      std::uint64_t value = 0;
      std::memcpy(&value, to.as<std::int64_t>() + r * words + i, sizeof value);
      VITRAIL_EXPECT(
          value == word(r, group.rank(), i, words), ExitCode::numbers,
          text("word ", i, " of ", words, " from rank ", r, " of its group arrived wrong on rank ", world.rank()),
          "an exchange must not change data", "The MPI library or the network is broken");
    }
  }
  std::vector<double> seconds;
  for (const std::int64_t ns : slowest_ns) seconds.push_back(1e-9 * static_cast<double>(ns));
  const double copy_s = largest_of_ranks(world, median(time_calls(budget_s / 4, [&] { device->copy(from, to); })));
  return {median(seconds), *std::min_element(seconds.begin(), seconds.end()), static_cast<std::int64_t>(calls), copy_s};
}

void report(const Log& log, const Settings& s, Communicator& world, std::int64_t bytes, const Measured& measured,
            double memory_GBps) {
  const double payload = 1e-9 * static_cast<double>(bytes * s.expert_parallel * world.size());
  const double rate = payload / measured.median_s;
  const double ceiling = payload / measured.copy_s;
  if (s.bench.json) {
    log.info(Json::object()
                 .set("bench", "exchange")
                 .set("ranks", std::int64_t{world.size()})
                 .set("expert_parallel", s.expert_parallel)
                 .set("bytes_per_pair", bytes)
                 .set("calls", measured.calls)
                 .set("median_us", 1e6 * measured.median_s)
                 .set("best_us", 1e6 * measured.best_s)
                 .set("payload_GBps", rate)
                 .set("copy_GBps", memory_GBps)
                 .set("ceiling_GBps", ceiling)
                 .set("fraction_of_ceiling", rate / ceiling)
                 .set("verified", true)
                 .dump());
    return;
  }
  char line[160];
  std::snprintf(line, sizeof line, "%14lld %8lld %11.1f %11.1f %10.2f %11.2f %9.1f %%", static_cast<long long>(bytes),
                static_cast<long long>(measured.calls), 1e6 * measured.median_s, 1e6 * measured.best_s, rate, ceiling,
                100 * rate / ceiling);
  log.info(line);
}

}  // namespace

int bench_exchange(MpiSession* session, int argc, const char* const* argv) {
  Settings s;
  Options options("vitrail-bench exchange", kManual);
  options.section("What is measured");
  options.add("bytes", s.bytes, "N...", "sizes of the part that one rank sends to another").only_on_command_line();
  options.add("expert-parallel", s.expert_parallel, "EP", "ranks that exchange with each other; 0: all")
      .only_on_command_line();
  options.add("threads", s.bench.run.threads, "N", "per rank, of the copy that is the ceiling").only_on_command_line();
  add_bench_options(options, s.bench);
  if (!options.parse(argc, argv) || session == nullptr) return 0;
  options.apply();
  check_bench_options(s.bench);
  const auto world = session->world();
  if (s.expert_parallel == 0) s.expert_parallel = world->size();
  VITRAIL_EXPECT(s.expert_parallel > 0 && world->size() % s.expert_parallel == 0, ExitCode::usage,
                 text(world->size(), " ranks are not divisible by --expert-parallel ", s.expert_parallel),
                 "the world is EP x R ranks", "");
  VITRAIL_EXPECT(!s.bytes.empty(), ExitCode::usage, "--bytes without a number", "there is nothing to measure", "");
  for (const std::int64_t bytes : s.bytes) {
    VITRAIL_EXPECT(bytes >= 8 && bytes % 8 == 0 && bytes <= (std::int64_t{1} << 40), ExitCode::usage,
                   text("--bytes ", bytes), "parts are whole words of 8 bytes", "");
  }
  const Log log("vitrail-bench", world->rank(), world->size());
  const auto group = world->split(static_cast<int>(world->rank() / s.expert_parallel));

  const Rate copy = measure_host_copy(static_cast<int>(s.bench.run.threads), s.bench.seconds, *world);
  if (!s.bench.json) {
    log.info("all-to-all among ", s.expert_parallel, " of ", world->size(), world->size() == 1 ? " rank" : " ranks",
             "; copy bandwidth of memory ", fixed(copy.median, 1), " GB/s (reads and writes)\n\n",
             "bytes per pair    calls   median us     best us    payload        copy  of ceiling\n",
             "                                                      GB/s        GB/s");
  }
  for (const std::int64_t bytes : s.bytes) {
    report(log, s, *world, bytes, time_exchange(*world, *group, bytes / 8, s.bench.seconds), copy.median);
  }
  if (!s.bench.json) log.info("\nEvery part arrived as it was sent.");
  return 0;
}

}  // namespace vitrail
