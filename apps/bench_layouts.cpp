#include "apps/bench_layouts.hpp"

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "apps/bench_measure.hpp"
#include "apps/child_process.hpp"
#include "apps/options.hpp"
#include "apps/scratch_folder.hpp"
#include "base/json.hpp"

namespace vitrail {

namespace {

constexpr const char* kManual =
    "Ranks times threads: times vitrail-bench step with the CPUs of this machine shared out in every way, each layout\n"
    "once a round, and names the fastest. A run's results are the same bits on all of them, so what is faster may be\n"
    "taken.\n"
    "\n"
    "  vitrail-bench layouts -- --model s32 --batch 16\n"
    "  vitrail-bench layouts --rounds 5 -- --preset fmnist --batch 64 --precision bf16\n"
    "\n"
    "Behind -- are options of vitrail-bench step, but --threads, --expert-parallel and --json. Several ranks have a\n"
    "copy of all experts each, or one copy together. Ranks are not pinned.\n"
    "\n"
    "Exit codes: 0 done; 2 usage, or mpirun is missing; 5 losses differ between layouts.";

struct Settings {
  std::int64_t cpus = 0;  ///< 0: all that this process may use
  std::int64_t rounds = 3;
  std::string mpirun = "mpirun";
  bool json = false;
};

struct BenchLayout {
  std::int64_t ranks;
  std::int64_t threads;
  std::int64_t expert_parallel;
  std::vector<Json> records{};  ///< of vitrail-bench step, one a round
  std::string refused{};        ///< why it cannot be

  [[nodiscard]] double middle(const std::string& key) const {
    std::vector<double> values;
    values.reserve(records.size());
    for (const Json& record : records) values.push_back(record.at(key).as_real());
    return median(values);
  }
  [[nodiscard]] std::string name() const {
    return text(ranks, ranks == 1 ? " rank" : " ranks", ", --threads ", threads, " --expert-parallel ",
                expert_parallel);
  }
};

std::vector<BenchLayout> layouts_of(std::int64_t cpus) {
  std::vector<BenchLayout> all;
  for (std::int64_t ranks = 1; ranks <= cpus; ++ranks) {
    if (cpus % ranks != 0) continue;
    all.push_back({ranks, cpus / ranks, 1});
    if (ranks > 1) all.push_back({ranks, cpus / ranks, ranks});
  }
  return all;
}

/// The JSON line of a run, or the reason why its settings do not fit the layout.
void run(BenchLayout& layout, const Settings& settings, const std::vector<std::string>& step_options,
         const std::filesystem::path& log) {
  std::vector<std::string> words;
  if (layout.ranks > 1) words = {settings.mpirun, "-np", std::to_string(layout.ranks), "--bind-to", "none"};
  words.insert(words.end(), {program_beside("vitrail-bench").string(), "step"});
  words.insert(words.end(), step_options.begin(), step_options.end());
  words.insert(words.end(), {"--json", "--threads", std::to_string(layout.threads), "--expert-parallel",
                             std::to_string(layout.expert_parallel)});
  const int code = ChildProcess(words, {}, log).wait();
  std::ifstream lines(log);
  std::string error;
  std::optional<Json> record;
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with("{")) record = Json::parse(line, log.string(), ExitCode::other);
    if (error.empty() && line.find("error: ") != std::string::npos) error = line.substr(line.find("error: ") + 7);
  }
  // 1 is what mpirun ends with when it has not as many slots.
  if (layout.ranks > 1 && (code == static_cast<int>(ExitCode::usage) || code == static_cast<int>(ExitCode::other))) {
    layout.refused = error.empty() ? text(settings.mpirun, " ended with exit code ", code) : error;
    return;
  }
  VITRAIL_EXPECT(code == 0 && record, code == 2 ? ExitCode::usage : ExitCode::other,
                 text("vitrail-bench step on ", layout.ranks, " ranks ended with exit code ", code),
                 error.empty() ? "it says no more" : error, "Try the command by itself, without `layouts`");
  layout.records.push_back(std::move(*record));
}

/// Error (numbers) unless all layouts have trained alike.
void expect_equal_losses(const std::vector<BenchLayout>& layouts) {
  const double wanted = layouts.front().records.front().at("loss_last").as_real();
  for (const BenchLayout& layout : layouts) {
    for (const Json& record : layout.records) {
      const double loss = record.at("loss_last").as_real();
      VITRAIL_EXPECT(
          loss == wanted, ExitCode::numbers,
          text("the last loss on ", layout.name(), " is ", loss, ", on ", layouts.front().name(), " ", wanted),
          "results must not depend on the layout", "Run vitrail-selftest layouts");
    }
  }
}

void print(const std::vector<BenchLayout>& layouts, std::int64_t rounds) {
  std::printf("medians of %lld rounds\n", static_cast<long long>(rounds));
  std::printf("%5s  %7s  %12s  %10s  %10s  %16s\n", "ranks", "threads", "experts over", "images/s", "step, ms",
              "memory, GiB");
  for (const BenchLayout& layout : layouts) {
    std::printf("%5lld  %7lld  %12lld  ", static_cast<long long>(layout.ranks), static_cast<long long>(layout.threads),
                static_cast<long long>(layout.expert_parallel));
    if (layout.refused.empty()) {
      std::printf("%10.4g  %10.4g  %16.2f\n", layout.middle("images_per_s"), 1e3 * layout.middle("step_s"),
                  layout.middle("peak_rss_total_GiB"));
    } else {
      std::printf("%s\n", layout.refused.c_str());
    }
  }
}

/// The fastest, and whether by more than its rounds differ among themselves.
void advise(const std::vector<BenchLayout>& layouts) {
  const auto speed = [](const BenchLayout& layout) {
    return layout.refused.empty() ? layout.middle("images_per_s") : 0.0;
  };
  const auto slower = [&](const BenchLayout& a, const BenchLayout& b) { return speed(a) < speed(b); };
  const BenchLayout& best = *std::max_element(layouts.begin(), layouts.end(), slower);
  double least = speed(best);
  for (const Json& record : best.records) least = std::min(least, record.at("images_per_s").as_real());
  std::printf("fastest: %s\n", best.name().c_str());
  for (const BenchLayout& layout : layouts) {
    if (&layout == &best || !layout.refused.empty()) continue;
    std::printf("  %.3f times %s%s\n", speed(best) / speed(layout), layout.name().c_str(),
                speed(layout) >= least ? " (within what rounds differ)" : "");
  }
}

}  // namespace

int bench_layouts(int argc, const char* const* argv) {
  Settings settings;
  Options options("vitrail-bench layouts", kManual);
  options.add("cpus", settings.cpus, "N", "to share out; default: all that this process may use");
  options.add("rounds", settings.rounds, "N", "runs of every layout");
  options.add("mpirun", settings.mpirun, "PROGRAM", "what starts ranks: PROGRAM -np N --bind-to none ...");
  options.add("json", settings.json, "", "print the lines of vitrail-bench step instead of a table");
  const char* const* const end = argv + argc;
  const char* const* const own_end = std::find(argv, end, std::string("--"));
  if (!options.parse(static_cast<int>(own_end - argv), argv)) return 0;
  options.apply();
  const std::vector<std::string> step_options(own_end == end ? end : own_end + 1, end);
  if (settings.cpus == 0) settings.cpus = std::max<std::int64_t>(1, std::thread::hardware_concurrency());
  VITRAIL_EXPECT(settings.cpus >= 1 && settings.cpus <= 1024 && settings.rounds >= 1, ExitCode::usage,
                 text("--cpus ", settings.cpus, " --rounds ", settings.rounds), "1 to 1024 CPUs, and a round or more",
                 "");
  for (const char* own : {"--threads", "--expert-parallel", "--json"}) {
    VITRAIL_EXPECT(std::find(step_options.begin(), step_options.end(), own) == step_options.end(), ExitCode::usage,
                   text(own, " behind --"), "every layout has its own", "Leave it out");
  }
  const ScratchFolder folder("vitrail-bench-layouts");
  std::vector<BenchLayout> layouts = layouts_of(settings.cpus);
  for (std::int64_t round = 0; round < settings.rounds; ++round) {
    for (BenchLayout& layout : layouts) {
      if (!layout.refused.empty()) continue;
      run(layout, settings, step_options, folder.path() / "log");
      if (settings.json && layout.refused.empty()) std::printf("%s\n", layout.records.back().dump().c_str());
    }
  }
  expect_equal_losses(layouts);
  if (settings.json) return 0;
  print(layouts, settings.rounds);
  advise(layouts);
  return 0;
}

}  // namespace vitrail
