#include "apps/layouts.hpp"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <thread>

#include <signal.h>

#include "apps/child_process.hpp"
#include "apps/progress.hpp"
#include "apps/scratch_folder.hpp"
#include "base/philox.hpp"
#include "base/sha256.hpp"
#include "data/shard.hpp"
#include "train/checkpoint.hpp"

namespace vitrail {

namespace {

namespace fs = std::filesystem;

/// What is trained, beside the options that all runs share.
struct Recipe {
  std::string name;
  std::vector<std::string> options;
  bool killed = false;  ///< one of its runs is killed and resumed
  bool early = false;   ///< weights are updated early, which not every cut can do
};

/// Another way through the training step each, for a few steps on a few layouts. Their options come after the common
/// ones and override them.
const std::vector<Recipe>& further_recipes() {
  static const std::vector<Recipe> recipes = {
      {"sgd",
       {"--optimizer", "sgd", "--learning-rate", "0.05", "--schedule", "polynomial", "--power", "2", "--average-decay",
        "0.9"}},
      {"adafactor", {"--optimizer", "adafactor", "--factored-above", "16", "--bf16-momentum"}, true},
      {"bpr", {"--token-order", "prioritized", "--capacity-factor", "0.5", "--z-weight", "0.001"}},
      {"random order", {"--token-order", "random", "--capacity-factor", "0.5", "--selected", "1"}},
      {"experts choice", {"--router", "experts-choice", "--capacity-factor", "1", "--normalize-gates"}},
      {"soft moe", {"--router", "soft", "--group-images", "1", "--classifier", "gap", "--qk-norm"}},
      {"dropout",
       {"--dropout", "0.1", "--attention-dropout", "0.1", "--expert-dropout", "0.2", "--stochastic-depth", "0.2",
        "--blocks", "4", "--moe", "0,2"},
       true},
      {"mixup", {"--mixup", "0.5", "--mixup-draw", "image", "--label-smoothing", "0.1", "--loss", "sigmoid"}},
      {"early update", {"--mlp-width", "4160", "--clip-norm", "0", "--early-update"}, true, true},
      {"bf16", {"--precision", "bf16", "--exchange-dtype", "bf16", "--classifier", "map", "--positions", "sincos2d"}},
  };
  return recipes;
}

constexpr std::int64_t kFewSteps = 8;

/// One run of vitrail-train.
struct Cut {
  std::string name;
  int ranks;
  int expert_parallel;
  int leaves_per_pass;               ///< 0: all in one pass
  std::vector<std::string> extra{};  ///< further options
  std::string carrier{};             ///< --communicator of --backend cuda; empty: staged, so that ranks share a GPU
};

struct Outcome {
  std::string weights;
  std::string optimizer;
  std::string metrics;
  bool clipped = false;
  bool dropped = false;

  [[nodiscard]] bool same(const Outcome& other) const {
    return weights == other.weights && optimizer == other.optimizer && metrics == other.metrics;
  }
};

/// Images of ten kinds, told apart by where they are bright, under noise: what a model can learn in a few steps.
void make_data(const fs::path& folder) {
  constexpr std::int64_t images = 2048;
  constexpr std::int64_t side = 28;
  std::vector<std::uint8_t> pixels(images * side * side);
  std::vector<std::int32_t> labels(images);
  const Philox random(7, Purpose::test, 0);
  for (std::int64_t image = 0; image < images; ++image) {
    const std::int64_t label = random.bits(static_cast<std::uint64_t>(image)) % 10;
    labels[static_cast<std::size_t>(image)] = static_cast<std::int32_t>(label);
    for (std::int64_t i = 0; i < side * side; ++i) {
      const std::int64_t at = image * side * side + i;
      const bool bright = (i / side / 7 * 4 + i % side / 7) % 10 == label;
      const std::uint32_t noise = random.bits(static_cast<std::uint64_t>(images + at)) % 128;
      pixels[static_cast<std::size_t>(at)] = static_cast<std::uint8_t>(noise + (bright ? 127 : 0));
    }
  }
  fs::create_directories(folder);
  (void)write_split(folder, "layouts/train", {{side, side, 1}, pixels, labels}, 10, {}, 3);
}

/// SHA-256 of the parameters, or of all other tensors.
std::string digest_of(const CheckpointReader& reader, bool parameters) {
  Sha256 sum;
  std::vector<std::byte> bytes;
  for (const std::string& name : reader.tensors()) {
    if (name.starts_with("parameters/") != parameters) continue;
    const Shape shape = reader.shape(name);
    const Dtype dtype = reader.dtype(name);
    bytes.resize(static_cast<std::size_t>(shape.elements() * size_of(dtype)));
    reader.read(name, 0, Tensor(bytes.data(), {shape.elements()}, dtype));
    sum.update(text(name, shape.str(), name_of(dtype)));
    sum.update(bytes.data(), bytes.size());
  }
  return sum.hex();
}

class Layouts {
 public:
  Layouts(const LayoutsSettings& settings, const fs::path& folder) : settings_(settings), folder_(folder) {
    data_ = settings.data;
    if (data_.empty()) {
      data_ = folder / "data";
      make_data(data_);
    }
  }

  int run() {
    const Stopwatch clock;
    run_all_cuts(1);
    if (!on_gpu()) run_all_cuts(2);  // the host's threads compute nothing there
    for (const Recipe& recipe : further_recipes()) {
      if (recipe.early && on_gpu()) continue;  // gradients are made by a library there
      const auto wanted = [&](const std::string& name) { return name == "all" || name == recipe.name; };
      if (std::any_of(settings_.recipes.begin(), settings_.recipes.end(), wanted)) run_few_cuts(recipe);
    }
    std::printf("%s: %d of %d runs as they should be, in %s\n", failures_ == 0 ? "PASS" : "FAIL", runs_ - failures_,
                runs_, duration(clock.seconds()).c_str());
    return failures_ == 0 ? 0 : static_cast<int>(ExitCode::numbers);
  }

 private:
  /// What the runs of a list have in common.
  struct Series {
    std::string name;
    std::vector<std::string> options;
    int threads;
    std::int64_t steps;
  };

  [[nodiscard]] bool on_gpu() const { return settings_.backend == "cuda"; }

  void run_all_cuts(int threads) {
    const Series series{text(threads, threads == 1 ? " thread" : " threads", " per rank"),
                        {"--precision", settings_.precision},
                        threads,
                        settings_.steps};
    std::printf("%s\n", series.name.c_str());
    const Outcome wanted = finish(series, {"1 rank", 1, 1, 0}, nullptr);
    expect(wanted.clipped, "clipping never bit");
    expect(wanted.dropped, "no choice was dropped");
    for (const Cut& cut :
         {Cut{"1 rank, 8 passes", 1, 1, 1}, Cut{"2 ranks, EP 1", 2, 1, 0}, Cut{"2 ranks, EP 1, 4 passes", 2, 1, 1},
          Cut{"2 ranks, EP 2", 2, 2, 0}, Cut{"2 ranks, EP 2, 2 passes", 2, 2, 2}, Cut{"4 ranks, EP 2 x R 2", 4, 2, 0},
          Cut{"4 ranks, EP 2 x R 2, 2 passes", 4, 2, 1}, Cut{"4 ranks, EP 4", 4, 4, 0}}) {
      if (cut.ranks <= settings_.most_ranks) (void)finish(series, cut, &wanted);
    }
    if (on_gpu()) {
      (void)finish(series, {"1 rank, staged", 1, 1, 0, {}, "staged"}, &wanted);
      (void)finish(series, {"1 rank, without graphs", 1, 1, 2, {"--graphs", "off"}}, &wanted);
      if (nccl_is_built()) (void)finish(series, {"1 rank, NCCL", 1, 1, 0, {}, "nccl"}, &wanted);
    }
    kill_and_resume(series, wanted);
    if (threads == 1) controls(series, wanted);
  }

  void run_few_cuts(const Recipe& recipe) {
    const Series series{recipe.name, recipe.options, 1, kFewSteps};
    std::printf("%s\n", series.name.c_str());
    const Outcome wanted = finish(series, {"1 rank", 1, 1, 0}, nullptr);
    // Hidden layers that are computed again are promised the same bits by the host alone (apps/run_options).
    const std::vector<Cut> cuts =
        recipe.early
            ? std::vector<Cut>{{"1 rank, recompute", 1, 1, 0, {"--recompute", "mlp"}},
                               {"2 ranks, EP 2, recompute", 2, 2, 0, {"--recompute", "block"}},
                               {"4 ranks, EP 4", 4, 4, 0}}
            : std::vector<Cut>{{"1 rank, 8 passes, recompute", 1, 1, 1, {"--recompute", on_gpu() ? "block" : "mlp"}},
                               {"2 ranks, EP 2, recompute", 2, 2, 0, {"--recompute", "block"}},
                               {"4 ranks, EP 2 x R 2", 4, 2, 0}};
    for (const Cut& cut : cuts) {
      if (cut.ranks <= settings_.most_ranks) (void)finish(series, cut, &wanted);
    }
    if (recipe.killed) kill_and_resume(series, wanted);
  }

  [[nodiscard]] fs::path run_dir(const Series& series, const Cut& cut) const {
    std::string name = text(cut.name, ", ", series.name);
    std::replace(name.begin(), name.end(), ' ', '-');
    name.erase(std::remove(name.begin(), name.end(), ','), name.end());
    return folder_ / name;
  }

  [[nodiscard]] std::vector<std::string> words(const Series& series, const Cut& cut, const fs::path& dir) const {
    std::vector<std::string> all;
    const auto add = [&](const std::vector<std::string>& more) { all.insert(all.end(), more.begin(), more.end()); };
    if (settings_.most_ranks > 1) {
      add({settings_.mpirun, "-np", std::to_string(cut.ranks), "--oversubscribe", "--bind-to", "none"});
    }
    add({program_beside("vitrail-train").string(), "--preset", "fmnist"});
    add({"--data", data_.string(), "--run-dir", dir.string()});
    add({"--epochs", "0", "--steps", std::to_string(series.steps), "--batch", "64", "--leaf-images", "8"});
    add({"--shift", "2", "--flip", "--clip-norm", "0.5", "--capacity-factor", "0.8"});
    add({"--backend", settings_.backend, "--threads", std::to_string(series.threads)});
    if (on_gpu()) add({"--communicator", cut.carrier.empty() ? cut.ranks > 1 ? "staged" : "auto" : cut.carrier});
    if (settings_.machine.gpu) add({"--gpu", std::to_string(*settings_.machine.gpu)});
    add({"--expert-parallel", std::to_string(cut.expert_parallel)});
    add({"--leaves-per-pass", std::to_string(cut.leaves_per_pass), "--keep-last", "1"});
    if (settings_.small) {
      add({"--patch-rows", "7", "--patch-columns", "7", "--width", "16", "--mlp-width", "32", "--heads", "2"});
    }
    add(series.options);
    add(cut.extra);
    return all;
  }

  [[nodiscard]] std::vector<std::string> variables() const {
    // As root mpirun wants to be told twice; here root is whoever runs the test on a machine of their own.
    return {"OMPI_ALLOW_RUN_AS_ROOT=1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1", "OMPI_MCA_mpi_yield_when_idle=1",
            "OMP_WAIT_POLICY=passive"};
  }

  void run_to_end(const Series& series, const Cut& cut, const fs::path& dir) {
    const fs::path log = dir.string() + ".log";
    ChildProcess child(words(series, cut, dir), variables(), log);
    const int code = child.wait();
    VITRAIL_EXPECT(code == 0, code == 2 ? ExitCode::usage : ExitCode::numbers,
                   text("the run '", cut.name, ", ", series.name, "' ended with exit code ", code), last_line(log),
                   "Run again with --keep DIR to look at its log");
  }

  static std::string last_line(const fs::path& log) {
    std::ifstream stream(log);
    std::string last;
    for (std::string line; std::getline(stream, line);) {
      if (line.find("error:") != std::string::npos) return line;
      if (!line.empty()) last = line;
    }
    return last;
  }

  static Outcome read_outcome(const fs::path& dir) {
    const CheckpointReader reader(dir);
    Outcome outcome{digest_of(reader, true), digest_of(reader, false), {}};
    Sha256 metrics;
    std::ifstream lines(dir / "metrics.jsonl");
    for (std::string line; std::getline(lines, line);) {
      const Json parsed = Json::parse(line, (dir / "metrics.jsonl").string(), ExitCode::numbers);
      outcome.clipped = outcome.clipped || parsed.at("clipped").as_bool();
      outcome.dropped = outcome.dropped || parsed.at("drop_rate").as_real() > 0;
      Json without_times = Json::object();
      for (const JsonMember& member : parsed.members()) {
        if (member.key != "time") without_times.set(member.key, member.value);
      }
      metrics.update(without_times.dump() + "\n");
    }
    outcome.metrics = metrics.hex();
    return outcome;
  }

  /// Runs to the end and compares with `wanted`, if there is one.
  Outcome finish(const Series& series, const Cut& cut, const Outcome* wanted, bool must_equal = true) {
    const Stopwatch clock;
    const fs::path dir = run_dir(series, cut);
    run_to_end(series, cut, dir);
    Outcome outcome = read_outcome(dir);
    ++runs_;
    const bool same = wanted == nullptr || outcome.same(*wanted);
    const bool fine = wanted == nullptr || same == must_equal;
    if (!fine) ++failures_;
    std::printf("  %-32s %s  (%s)\n    weights   %s\n    optimizer %s\n    metrics   %s\n", cut.name.c_str(),
                wanted == nullptr ? "the measure"
                                  : (fine ? (must_equal ? "equal" : "differs, as it must")
                                          : (must_equal ? "DIFFERS" : "EQUAL, but it must differ")),
                duration(clock.seconds()).c_str(), outcome.weights.c_str(), outcome.optimizer.c_str(),
                outcome.metrics.c_str());
    std::fflush(stdout);
    return outcome;
  }

  void expect(bool condition, const char* what) {
    if (condition) return;
    ++failures_;
    std::printf("  FAIL: %s: the test would prove nothing\n", what);
  }

  /// Kills one rank of a run with SIGKILL, and goes on with it on another layout, computing blocks again.
  void kill_and_resume(const Series& series, const Outcome& wanted) {
    const bool several = settings_.most_ranks > 1;
    const int before = several ? 2 : 1;
    const int after = settings_.most_ranks >= 4 ? 4 : before;
    Cut cut{several ? text("2 ranks killed, resumed on ", after, ", EP ", after) : "1 rank killed, resumed in passes",
            before,
            before,
            0,
            {"--save-every", "3"}};
    const fs::path dir = run_dir(series, cut);
    {
      ChildProcess child(words(series, cut, dir), variables(), dir.string() + ".killed.log");
      while (child.running() && !latest_checkpoint(dir)) std::this_thread::sleep_for(std::chrono::milliseconds(2));
      const std::vector<pid_t> ranks = several ? child.children() : std::vector<pid_t>{child.pid()};
      if (child.running() && !ranks.empty()) kill(ranks.back(), SIGKILL);
      expect(child.wait() != 0, "the killed run ended as if nothing had been");
    }
    expect(latest_checkpoint(dir).has_value() && CheckpointReader(dir).info().step < series.steps,
           "the run was not killed between a checkpoint and its end");
    cut.ranks = cut.expert_parallel = after;
    if (after == before) cut.leaves_per_pass = 1;
    cut.extra.insert(cut.extra.end(), {"--resume", "--recompute", "block"});
    (void)finish(series, cut, &wanted);
  }

  /// What must not be equal: other leaves, no noise.
  void controls(const Series& series, const Outcome& wanted) {
    (void)finish(series, {"control: leaf of 16 images", 1, 1, 0, {"--leaf-images", "16"}}, &wanted, false);
    (void)finish(series, {"control: without router noise", 1, 1, 0, {"--noise", "0"}}, &wanted, false);
  }

  const LayoutsSettings& settings_;
  fs::path folder_;
  fs::path data_;
  int runs_ = 0;
  int failures_ = 0;
};

}  // namespace

std::vector<std::string> recipe_names() {
  std::vector<std::string> names = {"all", "none"};
  for (const Recipe& recipe : further_recipes()) names.push_back(recipe.name);
  return names;
}

int run_layouts(const LayoutsSettings& settings) {
  VITRAIL_EXPECT(settings.steps >= 8, ExitCode::usage, text("--steps ", settings.steps),
                 "a run is killed after its first checkpoint, at step 3", "Use at least 8");
  const fs::path& folder = settings.keep;
  if (folder.empty()) return Layouts(settings, ScratchFolder("vitrail-layouts").path()).run();
  VITRAIL_EXPECT(!fs::exists(folder) || fs::is_empty(folder), ExitCode::usage, text(folder.string(), " is not empty"),
                 "the runs start anew", "Name another --keep DIR");
  fs::create_directories(folder);
  const int code = Layouts(settings, folder).run();
  std::printf("checkpoints and logs: %s\n", folder.c_str());
  return code;
}

}  // namespace vitrail
