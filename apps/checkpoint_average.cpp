#include "apps/checkpoint_average.hpp"

#include <algorithm>
#include <cmath>
#include <deque>
#include <filesystem>
#include <iostream>
#include <string>

#include "apps/checkpoint_listing.hpp"
#include "apps/checkpoint_stretches.hpp"
#include "apps/new_run.hpp"
#include "apps/options.hpp"
#include "apps/progress.hpp"
#include "base/timer.hpp"
#include "device/host_values.hpp"
#include "train/checkpoint_stream.hpp"

namespace vitrail {

namespace {

constexpr const char* kManual =
    "vitrail-checkpoint average FROM... TO : the mean of the parameters of several checkpoints, such as the last ones\n"
    "of a run. Of a run, its latest one is taken. TO becomes a run with one checkpoint of the parameters alone, "
    "without\n"
    "the state of an optimizer, with step and configuration of the last FROM: vitrail-eval evaluates it, and\n"
    "vitrail-train --init-from starts from it; it cannot be resumed. TO must not be there yet, or be empty.\n"
    "\n"
    "  vitrail-checkpoint average runs/mine/checkpoints/step-0000{0400,0410,0420} runs/mean\n"
    "  vitrail-checkpoint average runs/a runs/b runs/ab --weights 0.9 0.1\n"
    "\n"
    "Sums are f64, in the order of the command line, divided by the sum of the weights and rounded once.\n"
    "\n"
    "Exit codes: 0 written; 2 usage, or TO is there; 4 a checkpoint cannot be read, has other tensors than the first,\n"
    "or TO cannot be written; 5 a mean is NaN or infinite.";

constexpr const char* kKind = "parameters/";

struct Settings {
  std::vector<std::filesystem::path> paths;
  std::vector<double> weights;
  std::int64_t files = 1;
  bool json = false;
};

std::vector<std::string> parameters_of(const CheckpointReader& checkpoint) {
  std::vector<std::string> names = checkpoint.tensors();
  names.erase(std::remove_if(names.begin(), names.end(), [](const auto& name) { return !name.starts_with(kKind); }),
              names.end());
  return names;
}

/// Error (checkpoint) unless `other` has the parameters of `first`, with the same shapes and dtypes.
void expect_alike(const CheckpointReader& first, const CheckpointReader& other) {
  constexpr const char* rule = "only checkpoints of the same model have a mean";
  const std::vector<std::string> names = parameters_of(first);
  for (const std::string& name : parameters_of(other)) {
    VITRAIL_EXPECT(
        first.has(name), ExitCode::checkpoint,
        text("'", first.path().string(), "' has no tensor ", name, ", but '", other.path().string(), "' has"), rule,
        "");
  }
  for (const std::string& name : names) {
    VITRAIL_EXPECT(
        other.has(name), ExitCode::checkpoint,
        text("'", other.path().string(), "' has no tensor ", name, ", but '", first.path().string(), "' has"), rule,
        "");
    const auto kind_of = [&](const CheckpointReader& one) {
      return text(name_of(one.dtype(name)), " ", one.shape(name).str());
    };
    VITRAIL_EXPECT(kind_of(first) == kind_of(other), ExitCode::checkpoint,
                   text(name, " is ", kind_of(other), " in '", other.path().string(), "' and ", kind_of(first), " in '",
                        first.path().string(), "'"),
                   rule, "");
  }
}

void write_mean(const std::deque<CheckpointReader>& from, const std::vector<double>& weights, const std::string& name,
                CheckpointStream& stream) {
  const Shape shape = from.front().shape(name);
  const Dtype dtype = from.front().dtype(name);
  stream.begin(name, shape, dtype);
  StretchBuffer buffer;
  std::vector<std::byte> rounded;
  in_stretches(shape.elements(), [&](std::int64_t first, std::int64_t count) {
    WeightedMean mean(static_cast<std::size_t>(count));
    for (std::size_t i = 0; i < from.size(); ++i) mean.add(buffer.read(from[i], name, first, count), weights[i]);
    VITRAIL_EXPECT(mean.finite(), ExitCode::numbers,
                   text("the mean of elements ", first, " to ", first + count - 1, " of ", name, " is not finite"),
                   "a checkpoint holds NaN or infinities there", "'vitrail-checkpoint show' counts them");
    rounded.resize(static_cast<std::size_t>(count * size_of(dtype)));
    const Tensor to(rounded.data(), {count}, dtype);
    mean.write(to);
    stream.write(to);
  });
}

/// Step and configuration of the last, and what the mean was made from.
CheckpointInfo info_of(const std::deque<CheckpointReader>& from, const std::vector<double>& weights) {
  Json sources = Json::array();
  for (std::size_t i = 0; i < from.size(); ++i) {
    sources.push_back(Json::object()
                          .set("checkpoint", from[i].path().string())
                          .set("step", from[i].info().step)
                          .set("weight", weights[i]));
  }
  const CheckpointInfo& last = from.back().info();
  return {last.step, last.config, Json::object().set("average_of", std::move(sources))};
}

}  // namespace

void WeightedMean::add(ConstTensor values, double weight) {
  const std::vector<double> some = to_doubles(values);
  VITRAIL_ASSERT(some.size() == sum_.size());
  for (std::size_t i = 0; i < sum_.size(); ++i) sum_[i] += weight * some[i];
  weights_ += weight;
}

std::vector<double> WeightedMean::mean() const {
  std::vector<double> mean = sum_;
  for (double& one : mean) one /= weights_;
  return mean;
}

void WeightedMean::write(Tensor to) const { from_doubles(mean(), to); }

bool WeightedMean::finite() const {
  return std::all_of(sum_.begin(), sum_.end(), [](double one) { return std::isfinite(one); });
}

std::vector<double> weights_of(std::span<const double> given, std::size_t n) {
  if (given.empty()) return std::vector<double>(n, 1.0);
  VITRAIL_EXPECT(given.size() == n, ExitCode::usage, text(given.size(), " --weights for ", n, " checkpoints"),
                 "each checkpoint has one", "");
  double sum = 0;
  for (const double weight : given) {
    VITRAIL_EXPECT(std::isfinite(weight) && weight >= 0, ExitCode::usage, text("--weights ", weight),
                   "a weight is 0 or more", "");
    sum += weight;
  }
  VITRAIL_EXPECT(std::isfinite(sum) && sum > 0, ExitCode::usage, text("--weights with the sum ", sum),
                 "the mean is divided by it", "");
  return {given.begin(), given.end()};
}

int checkpoint_average(int argc, char** argv) {
  Settings s;
  Options options("vitrail-checkpoint average", kManual);
  options.add("paths", s.paths, "FROM... TO", "checkpoints or runs, and the folder of a new run").required();
  options.add("weights", s.weights, "W...", "one for each FROM; default: all the same. Behind the paths");
  options.add("files", s.files, "N", "number of files that hold the tensors");
  options.add("json", s.json, "", "one JSON object instead of a line");
  options.positional("paths");
  if (!options.parse(argc, argv)) return 0;
  options.apply();
  VITRAIL_EXPECT(s.paths.size() >= 2, ExitCode::usage, text(s.paths.size(), " path is given"),
                 "at least one checkpoint and the new run are needed", "vitrail-checkpoint average FROM... TO");
  VITRAIL_EXPECT(s.files >= 1 && s.files <= 99999, ExitCode::usage, text("--files ", s.files), "it must be 1 to 99999",
                 "");
  const std::vector<double> weights = weights_of(s.weights, s.paths.size() - 1);

  const Stopwatch clock;
  std::deque<CheckpointReader> from;
  for (std::size_t i = 0; i + 1 < s.paths.size(); ++i) {
    from.emplace_back(s.paths[i]);
    expect_alike(from.front(), from.back());
  }
  const std::vector<std::string> names = parameters_of(from.front());
  VITRAIL_EXPECT(!names.empty(), ExitCode::checkpoint, text("'", from.front().path().string(), "' has no parameters"),
                 "their mean is what is wanted", "");
  NewRun run(s.paths.back());
  CheckpointStream stream(run.path(), info_of(from, weights), static_cast<int>(s.files));
  for (const std::string& name : names) write_mean(from, weights, name, stream);
  const std::filesystem::path written = stream.finish();
  run.keep();
  if (s.json) {
    std::cout << Json::object()
                     .set("to", written.string())
                     .set("checkpoints", std::ssize(from))
                     .set("tensors", std::ssize(names))
                     .set("seconds", clock.seconds())
                     .dump()
              << '\n';
  } else {
    std::cout << written.string() << ": the mean of " << from.size()
              << (from.size() == 1 ? " checkpoint, " : " checkpoints, ") << names.size() << " tensors, "
              << duration(clock.seconds()) << '\n';
  }
  return 0;
}

}  // namespace vitrail
