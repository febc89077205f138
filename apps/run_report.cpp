#include "apps/run_report.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#include <ctime>
#include <map>

#include <unistd.h>

#include "apps/build_facts.hpp"
#include "apps/job_record.hpp"
#include "apps/progress.hpp"
#include "apps/version.hpp"
#include "base/file.hpp"

namespace vitrail {

void expect_images_fit(const Dataset& dataset, const ModelConfig& model) {
  const ImageShape& image = dataset.image();
  VITRAIL_EXPECT(
      image.height == model.image_height && image.width == model.image_width && image.channels == model.channels,
      ExitCode::data, text(dataset.name(), " has images of ", image.height, "x", image.width, "x", image.channels),
      text("the model takes ", model.image_height, "x", model.image_width, "x", model.channels),
      "Set --image-height, --image-width and --channels, or choose other data");
}

void expect_data_fits(const Dataset& dataset, const ModelConfig& model) {
  expect_images_fit(dataset, model);
  VITRAIL_EXPECT(dataset.classes() == model.classes, ExitCode::data,
                 text(dataset.name(), " has ", dataset.classes(), " classes"), text("the model has ", model.classes),
                 text("Set --classes ", dataset.classes()));
}

void copy_block(const ImageBlock& block, Tensor raw_images, Tensor labels) {
  const Shape shape{block.count, block.labels_per_image};
  VITRAIL_EXPECT(shape == labels.shape, ExitCode::other,
                 text("a block with labels ", shape.str(), " for a pass with ", labels.shape.str()), "this is a bug",
                 "");
  std::memcpy(raw_images.data, block.images, static_cast<std::size_t>(raw_images.bytes()));
  std::memcpy(labels.data, block.labels, static_cast<std::size_t>(labels.bytes()));
}

Json layout_json(const Layout& layout) {
  return Json::object()
      .set("ranks", layout.ranks)
      .set("expert_parallel", layout.expert_parallel)
      .set("leaves_per_pass", layout.leaves_per_pass)
      .set("batch", layout.batch)
      .set("leaf_images", layout.leaf_images);
}

namespace {
std::string host_name() {
  char name[256] = {};
  return gethostname(name, sizeof name - 1) == 0 ? name : "unknown";
}
std::string mebibytes(std::int64_t bytes) { return fixed(static_cast<double>(bytes) / (1 << 20), 1) + " MiB"; }

Json nodes_json(const std::vector<std::string>& host_of_rank) {
  std::map<std::string, std::vector<std::int64_t>> nodes;
  for (std::size_t rank = 0; rank < host_of_rank.size(); ++rank) {
    nodes[host_of_rank[rank]].push_back(static_cast<std::int64_t>(rank));
  }
  Json all = Json::array();
  for (const auto& [host, ranks] : nodes) {
    Json numbers = Json::array();
    for (const std::int64_t rank : ranks) numbers.push_back(rank);
    all.push_back(Json::object().set("host", host).set("ranks", std::move(numbers)));
  }
  return all;
}

/// Bytes of rank 0, by class.
Json memory_json(const TrainState& state, std::int64_t checkpoint_buffer_bytes) {
  return Json::object()
      .set("parameters", state.parameter_bytes())
      .set("gradients", state.gradient_bytes())
      .set("optimizer", state.optimizer_bytes())
      .set("activations", state.activation_bytes())
      .set("checkpoint_buffer", checkpoint_buffer_bytes);
}

std::string now_in_utc() {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  std::array<char, 32> shown{};
  gmtime_r(&now, &parts);
  return {shown.data(), std::strftime(shown.data(), shown.size(), "%Y-%m-%dT%H:%M:%SZ", &parts)};
}

Json start_json(MpiSession& session, const Machine& machine, const TrainState& state, const StartFacts& facts,
                Json nodes) {
  Json command = Json::array();
  for (const std::string& word : facts.command) command.push_back(word);
  Json start = Json::object()
                   .set("started", now_in_utc())
                   .set("command", std::move(command))
                   .set("build", build_facts())
                   .set("mpi", session.library_version())
                   .set("nodes", std::move(nodes))
                   .set("device", machine.device().description())
                   .set("backend", state.ops.name())
                   .set("exchange", machine.carrier())
                   .set("threads", state.config.threads)
                   .set("layout", layout_json(state.layout))
                   .set("seed", state.config.seed)
                   .set("data", facts.data)
                   .set("first_step", state.step)
                   .set("last_step", facts.last_step)
                   .set("memory_bytes", memory_json(state, facts.checkpoint_buffer_bytes))
                   .set("slurm", slurm_variables());
  if (!facts.resumed_from.empty()) start.set("resumed_from", facts.resumed_from);
  if (facts.end) {
    start.set("ends", Json::object().set("unix_s", facts.end->unix_s).set("says", facts.end->source));
  }
  Json settings = Json::object();
  for (const JsonMember& one : facts.settings.members()) {
    settings.set(one.key, one.value.items().size() == 1 ? one.value.items().front() : one.value);
  }
  return start.set("settings", std::move(settings));
}

/// "HDF5 1.10.8, oneDNN 2.6.3": those that results or files depend on most.
std::string main_libraries() {
  std::string all;
  for (const std::string& one : built_with()) {
    const bool shown = one.starts_with("HDF5") || one.starts_with("oneDNN") || one.starts_with("CUDA");
    if (shown) all += (all.empty() ? "" : ", ") + one;
  }
  return all;
}

}  // namespace

Json report_start(const Log& log, MpiSession& session, const Machine& machine, const TrainState& state,
                  const StartFacts& facts) {
  const Layout& layout = state.layout;
  const ModelConfig& model = state.config.model;
  const Json nodes = nodes_json(state.ranks.world.all_gather_strings(host_name()));
  const std::size_t node_count = nodes.items().size();
  log.info("vitrail ", kVersion, " (commit ", git_commit(), "), ", session.library_version(), ", ", main_libraries());
  log.info("ranks   ", layout.ranks, " on ", node_count, node_count == 1 ? " node" : " nodes", " = ",
           layout.expert_parallel, " expert-parallel x ", layout.replicas(),
           layout.replicas() == 1 ? " replica" : " replicas", "; back end ", state.ops.name(), ", ",
           state.ops.precision() == Precision::bf16 ? "bf16 products, " : "", state.config.threads,
           state.config.threads == 1 ? " thread" : " threads", " per rank");
  log.info("batch   ", layout.batch, " images = ", layout.leaves(), " leaves of ", layout.leaf_images, " = ",
           layout.passes(), layout.passes() == 1 ? " pass" : " passes", " x ", layout.ranks, " ranks x ",
           layout.leaves_per_pass);
  log.info("model   ", parameter_count(state.table), " parameters, ", model.blocks, " blocks, ",
           model.moe_blocks.size(), " sparse",
           model.moe_blocks.empty() ? ""
                                    : text(" with ", model.experts, " experts, ", model.router.selected, " per token, ",
                                           model.slots(), " slots for ", model.group_tokens(), " tokens"));
  log.info("data    ", facts.data, ": ", facts.images, " images, ", model.classes, " classes",
           state.labels_per_image > 1 ? text(", up to ", state.labels_per_image, " labels each") : "", "; ",
           facts.last_step, " steps; seed ", state.config.seed);
  log.info("memory  per rank: parameters ", mebibytes(state.parameter_bytes()), ", gradients ",
           mebibytes(state.gradient_bytes()), ", optimizer ", mebibytes(state.optimizer_bytes()), ", activations ",
           mebibytes(state.activation_bytes()), ", checkpoint buffer ", mebibytes(facts.checkpoint_buffer_bytes));
  if (facts.end) log.info("time    until ", local_time(facts.end->unix_s), ", says ", facts.end->source);
  return start_json(session, machine, state, facts, nodes);
}

void RunTotals::add(const StepReport& report, double step_seconds, double wait_seconds) {
  ++steps;
  step_s += step_seconds;
  data_wait_s += wait_seconds;
  const double weight = std::max(0.01, 1.0 / static_cast<double>(steps));
  loss += weight * (report.metrics.total_loss() - loss);
  accuracy += weight * (report.metrics.accuracy() - accuracy);
  drop_rate += weight * (report.metrics.drop_rate() - drop_rate);
  load_imbalance += weight * (report.metrics.load_imbalance() - load_imbalance);
}

void RunTotals::add(const SaveTimes& times, double late_data_s) {
  ++saves;
  save_stall_s += times.stall_s;
  save_late_data_s += late_data_s;
  last_save = times;
  last_save_late_data_s = late_data_s;
}

Json to_json(const SaveTimes& times, double late_data_s) {
  return Json::object()
      .set("step", times.step)
      .set("bytes", times.bytes)
      .set("seconds", times.seconds)
      .set("bytes_per_s", times.bytes_per_s())
      .set("stall_s", times.stall_s + late_data_s)
      .set("data_wait_s", late_data_s);
}

std::string describe(const SaveTimes& times, double late_data_s) {
  return text("saved   step ", times.step, ": ", mebibytes(times.bytes), " in ", fixed(times.seconds, 2), " s (",
              mebibytes(static_cast<std::int64_t>(times.bytes_per_s())), "/s); the steps stalled for ",
              fixed(times.stall_s + late_data_s, 3), " s",
              late_data_s > 0.0005 ? text(", of these ", fixed(late_data_s, 3), " s for data") : "");
}

namespace {

struct Speed {
  double images_per_s = 0;
  double gflops = 0;
};
Speed speed_of(const TrainState& state, const RunTotals& totals) {
  if (totals.steps == 0) return {};
  const double images_per_s = static_cast<double>(totals.steps * state.layout.batch) / totals.step_s;
  return {images_per_s, 3e-9 * forward_flops_per_image(state.config.model) * images_per_s};
}

}  // namespace

Json job_summary(const TrainState& state, const RunTotals& totals, double gemm_peak) {
  const Speed speed = speed_of(state, totals);
  Json job = Json::object()
                 .set("steps", totals.steps)
                 .set("train_wall_s", totals.train_s)
                 .set("images_per_s", speed.images_per_s)
                 .set("gflops", speed.gflops)
                 .set("gemm_peak_gflops", gemm_peak)
                 .set("gemm_peak_share", gemm_peak > 0 ? speed.gflops / gemm_peak : 0)
                 .set("data_wait_s", totals.data_wait_s)
                 .set("checkpoint_s", totals.save_stall_s + totals.save_late_data_s)
                 .set("checkpoints", totals.saves);
  if (totals.saves > 0) job.set("last_checkpoint", to_json(totals.last_save, totals.last_save_late_data_s));
  job.set("loss", totals.loss)
      .set("train_accuracy", totals.accuracy)
      .set("drop_rate", totals.drop_rate)
      .set("load_imbalance", totals.load_imbalance);
  if (!totals.digest.empty()) job.set("digest", totals.digest);
  return job;
}

void report_end(const Log& log, const TrainState& state, const RunTotals& totals, double gemm_peak) {
  const auto [images_per_s, gflops] = speed_of(state, totals);
  const std::string peak = gemm_peak > 0 ? text(" = ", fixed(100 * gflops / gemm_peak, 1),
                                                " % of the measured GEMM peak (", fixed(gemm_peak, 1), ")")
                                         : "";
  log.info("trained ", totals.steps, totals.steps == 1 ? " step in " : " steps in ", duration(totals.train_s), ": ",
           fixed(images_per_s, 0), " images/s, ", fixed(gflops, 1), " GFLOP/s", peak);
  log.info("        loss ", fixed(totals.loss, 4), ", training accuracy ", fixed(100 * totals.accuracy, 2),
           " %, dropped ", fixed(100 * totals.drop_rate, 2), " %, fullest expert ", fixed(totals.load_imbalance, 2),
           " x the mean; waited for data ", fixed(totals.data_wait_s, 2), " s, for checkpoints ",
           fixed(totals.save_stall_s + totals.save_late_data_s, 2), " s");
  if (!totals.digest.empty()) log.info("digest  ", totals.digest, "  of the checkpoint of step ", state.step);
}

void write_summary(const std::filesystem::path& run_dir, std::int64_t step, const Json& job) {
  Json summary = Json::object().set("step", step);
  for (const JsonMember& member : job.members()) summary.set(member.key, member.value);
  summary.set("all_jobs", totals_of_jobs(run_dir));
  write_file_atomically(run_dir / "summary.json", summary.dump(2) + "\n", ExitCode::other);
}

std::int64_t step_of_summary(const std::filesystem::path& run_dir) {
  try {
    const std::filesystem::path path = run_dir / "summary.json";
    return Json::parse(read_file(path, ExitCode::other), path.string(), ExitCode::other).at("step").as_integer();
  } catch (const Error&) {
    return -1;
  }
}

}  // namespace vitrail
