#include "apps/layouts.hpp"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <thread>

#include <signal.h>
#include <stdlib.h>

#include "apps/child_process.hpp"
#include "apps/progress.hpp"
#include "base/philox.hpp"
#include "base/sha256.hpp"
#include "data/shard.hpp"
#include "train/checkpoint.hpp"

namespace vitrail {

namespace {

namespace fs = std::filesystem;

/// One run of vitrail-train.
struct Cut {
  std::string name;
  int ranks;
  int expert_parallel;
  int leaves_per_pass;               ///< 0: all in one pass
  std::vector<std::string> extra{};  ///< further options
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

std::string digest_of(const CheckpointReader& reader, const std::vector<std::string>& kinds) {
  Sha256 sum;
  std::vector<std::byte> bytes;
  for (const std::string& name : reader.tensors()) {
    if (std::none_of(kinds.begin(), kinds.end(), [&](const std::string& kind) { return name.starts_with(kind); })) {
      continue;
    }
    const Shape shape = reader.shape(name);
    const Dtype dtype = reader.dtype(name);
    bytes.resize(static_cast<std::size_t>(shape.elements() * size_of(dtype)));
    reader.read(name, 0, Tensor(bytes.data(), {shape.elements()}, dtype));
    sum.update(text(name, shape.str(), name_of(dtype)));
    sum.update(bytes.data(), bytes.size());
  }
  return sum.hex();
}

/// Removes a folder at the end of its scope, errors included; none when empty.
struct TemporaryFolder {
  fs::path path;
  ~TemporaryFolder() {
    std::error_code ignored;
    if (!path.empty()) fs::remove_all(path, ignored);
  }
};

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
    for (const int threads : {1, 2}) {
      std::printf("%d thread%s per rank\n", threads, threads == 1 ? "" : "s");
      const Outcome wanted = finish({"1 rank", 1, 1, 0}, threads, nullptr);
      expect(wanted.clipped, "clipping never bit");
      expect(wanted.dropped, "no choice was dropped");
      for (const Cut& cut :
           {Cut{"1 rank, 8 passes", 1, 1, 1}, Cut{"2 ranks, EP 1", 2, 1, 0}, Cut{"2 ranks, EP 1, 4 passes", 2, 1, 1},
            Cut{"2 ranks, EP 2", 2, 2, 0}, Cut{"2 ranks, EP 2, 2 passes", 2, 2, 2}, Cut{"4 ranks, EP 2 x R 2", 4, 2, 0},
            Cut{"4 ranks, EP 2 x R 2, 2 passes", 4, 2, 1}, Cut{"4 ranks, EP 4", 4, 4, 0}}) {
        (void)finish(cut, threads, &wanted);
      }
      kill_and_resume(threads, wanted);
      if (threads == 1) controls(wanted);
    }
    std::printf("%s: %d of %d runs as they should be\n", failures_ == 0 ? "PASS" : "FAIL", runs_ - failures_, runs_);
    return failures_ == 0 ? 0 : static_cast<int>(ExitCode::numbers);
  }

 private:
  [[nodiscard]] fs::path run_dir(const Cut& cut, int threads) const {
    std::string name = text(cut.name, ", ", threads, threads == 1 ? " thread" : " threads");
    std::replace(name.begin(), name.end(), ' ', '-');
    name.erase(std::remove(name.begin(), name.end(), ','), name.end());
    return folder_ / name;
  }

  [[nodiscard]] std::vector<std::string> words(const Cut& cut, int threads, const fs::path& dir) const {
    std::vector<std::string> all = {settings_.mpirun,
                                    "-np",
                                    std::to_string(cut.ranks),
                                    "--oversubscribe",
                                    "--bind-to",
                                    "none",
                                    (program_folder() / "vitrail-train").string(),
                                    "--preset",
                                    "fmnist",
                                    "--data",
                                    data_.string(),
                                    "--run-dir",
                                    dir.string(),
                                    "--epochs",
                                    "0",
                                    "--steps",
                                    std::to_string(settings_.steps),
                                    "--batch",
                                    "64",
                                    "--leaf-images",
                                    "8",
                                    "--shift",
                                    "2",
                                    "--flip",
                                    "--clip-norm",
                                    "0.5",
                                    "--capacity-factor",
                                    "0.8",
                                    "--backend",
                                    settings_.backend,
                                    "--threads",
                                    std::to_string(threads),
                                    "--expert-parallel",
                                    std::to_string(cut.expert_parallel),
                                    "--leaves-per-pass",
                                    std::to_string(cut.leaves_per_pass),
                                    "--keep-last",
                                    "1"};
    all.insert(all.end(), cut.extra.begin(), cut.extra.end());
    return all;
  }

  [[nodiscard]] std::vector<std::string> variables() const {
    // As root mpirun wants to be told twice; here root is whoever runs the test on a machine of their own.
    return {"OMPI_ALLOW_RUN_AS_ROOT=1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1", "OMPI_MCA_mpi_yield_when_idle=1",
            "OMP_WAIT_POLICY=passive"};
  }

  void run_to_end(const Cut& cut, int threads, const fs::path& dir) {
    const fs::path log = dir.string() + ".log";
    ChildProcess child(words(cut, threads, dir), variables(), log);
    const int code = child.wait();
    VITRAIL_EXPECT(code == 0, code == 2 ? ExitCode::usage : ExitCode::numbers,
                   text("the run '", cut.name, "' ended with exit code ", code), last_line(log),
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
    const CheckpointReader reader(dir, true);
    Outcome outcome{digest_of(reader, {"parameters/"}), digest_of(reader, {"adam_m/", "adam_v/"}), {}};
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
  Outcome finish(const Cut& cut, int threads, const Outcome* wanted, bool must_equal = true) {
    const Stopwatch clock;
    const fs::path dir = run_dir(cut, threads);
    run_to_end(cut, threads, dir);
    const Outcome outcome = read_outcome(dir);
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

  /// Kills one rank of a run with SIGKILL, and goes on with it on another layout.
  void kill_and_resume(int threads, const Outcome& wanted) {
    Cut cut{"2 ranks killed, resumed on 4, EP 4", 2, 2, 0, {"--save-every", "3"}};
    const fs::path dir = run_dir(cut, threads);
    {
      ChildProcess child(words(cut, threads, dir), variables(), dir.string() + ".killed.log");
      while (child.running() && !latest_checkpoint(dir)) std::this_thread::sleep_for(std::chrono::milliseconds(2));
      const std::vector<pid_t> ranks = child.children();
      for (const pid_t rank : ranks) {
        if (rank == ranks.back()) kill(rank, SIGKILL);
      }
      expect(child.wait() != 0, "the killed run ended as if nothing had been");
    }
    expect(latest_checkpoint(dir).has_value() && CheckpointReader(dir).info().step < settings_.steps,
           "the run was not killed between a checkpoint and its end");
    cut.ranks = cut.expert_parallel = 4;
    cut.extra.emplace_back("--resume");
    (void)finish(cut, threads, &wanted);
  }

  /// What must not be equal: other leaves, no noise.
  void controls(const Outcome& wanted) {
    (void)finish({"control: leaf of 16 images", 1, 1, 0, {"--leaf-images", "16"}}, 1, &wanted, false);
    (void)finish({"control: without router noise", 1, 1, 0, {"--noise", "0"}}, 1, &wanted, false);
  }

  const LayoutsSettings& settings_;
  fs::path folder_;
  fs::path data_;
  int runs_ = 0;
  int failures_ = 0;
};

}  // namespace

int run_layouts(const LayoutsSettings& settings) {
  VITRAIL_EXPECT(settings.steps >= 8, ExitCode::usage, text("--steps ", settings.steps),
                 "a run is killed after its first checkpoint, at step 3", "Use at least 8");
  fs::path folder = settings.keep;
  if (folder.empty()) {
    std::string pattern = (fs::temp_directory_path() / "vitrail-layouts-XXXXXX").string();
    VITRAIL_EXPECT(mkdtemp(pattern.data()) != nullptr, ExitCode::other, text(pattern, " cannot be made"),
                   "the runs need a place", "Set TMPDIR, or use --keep DIR");
    folder = pattern;
  } else {
    VITRAIL_EXPECT(!fs::exists(folder) || fs::is_empty(folder), ExitCode::usage, text(folder.string(), " is not empty"),
                   "the runs start anew", "Name another --keep DIR");
    fs::create_directories(folder);
  }
  const TemporaryFolder temporary{settings.keep.empty() ? folder : fs::path()};
  const int code = Layouts(settings, folder).run();
  if (!settings.keep.empty()) std::printf("checkpoints and logs: %s\n", folder.c_str());
  return code;
}

}  // namespace vitrail
