#include "apps/run_report.hpp"

#include <algorithm>
#include <cstring>

#include <unistd.h>

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
}  // namespace

void report_start(const Log& log, MpiSession& session, const TrainState& state, const std::string& data,
                  std::int64_t images, std::int64_t last_step) {
  const Layout& layout = state.layout;
  const ModelConfig& model = state.config.model;
  std::vector<std::string> hosts = state.ranks.world.all_gather_strings(host_name());
  std::sort(hosts.begin(), hosts.end());
  hosts.erase(std::unique(hosts.begin(), hosts.end()), hosts.end());
  log.info("vitrail ", kVersion, ", ", session.library_version(), ", back end ", state.ops.name(), ", ",
           state.ops.precision() == Precision::bf16 ? "bf16 products, " : "", state.config.threads,
           state.config.threads == 1 ? " thread" : " threads", " per rank");
  log.info("ranks   ", layout.ranks, " on ", hosts.size(), hosts.size() == 1 ? " node" : " nodes", " = ",
           layout.expert_parallel, " expert-parallel x ", layout.replicas(),
           layout.replicas() == 1 ? " replica" : " replicas");
  log.info("batch   ", layout.batch, " images = ", layout.leaves(), " leaves of ", layout.leaf_images, " = ",
           layout.passes(), layout.passes() == 1 ? " pass" : " passes", " x ", layout.ranks, " ranks x ",
           layout.leaves_per_pass);
  log.info("model   ", parameter_count(state.table), " parameters, ", model.blocks, " blocks, ",
           model.moe_blocks.size(), " sparse",
           model.moe_blocks.empty() ? ""
                                    : text(" with ", model.experts, " experts, ", model.router.selected, " per token, ",
                                           model.slots(), " slots for ", model.group_tokens(), " tokens"));
  log.info("data    ", data, ": ", images, " images, ", model.classes, " classes",
           state.labels_per_image > 1 ? text(", up to ", state.labels_per_image, " labels each") : "", "; ", last_step,
           " steps");
  log.info("memory  per rank: parameters ", mebibytes(state.parameter_bytes()), ", gradients ",
           mebibytes(state.gradient_bytes()), ", optimizer ", mebibytes(state.optimizer_bytes()), ", activations ",
           mebibytes(state.activation_bytes()));
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

void report_end(const Log& log, const RunConfig& config, const TrainState& state, const RunTotals& totals,
                double gemm_peak) {
  const double images = static_cast<double>(totals.steps * state.layout.batch);
  const double gflops = 3e-9 * forward_flops_per_image(config.model) * images / totals.step_s;
  const double share = gemm_peak > 0 ? gflops / gemm_peak : 0;
  log.info("trained ", totals.steps, " steps in ", duration(totals.train_s), ": ", fixed(images / totals.step_s, 0),
           " images/s, ", fixed(gflops, 1), " GFLOP/s",
           gemm_peak > 0
               ? text(" = ", fixed(100 * share, 1), " % of the measured GEMM peak (", fixed(gemm_peak, 1), ")")
               : "; no memory was left to measure the GEMM peak");
  log.info("        loss ", fixed(totals.loss, 4), ", training accuracy ", fixed(100 * totals.accuracy, 2),
           " %, dropped ", fixed(100 * totals.drop_rate, 2), " %, fullest expert ", fixed(totals.load_imbalance, 2),
           " x the mean; waited for data ", fixed(totals.data_wait_s, 2), " s, for checkpoints ",
           fixed(totals.save_s, 2), " s");
  if (!totals.digest.empty()) log.info("digest  ", totals.digest, "  of the checkpoint of step ", state.step);
  if (state.ranks.world.rank() != 0) return;
  Json summary = Json::object()
                     .set("step", state.step)
                     .set("train_wall_s", totals.train_s)
                     .set("images_per_s", images / totals.step_s)
                     .set("gflops", gflops)
                     .set("gemm_peak_gflops", gemm_peak)
                     .set("gemm_peak_share", share)
                     .set("data_wait_s", totals.data_wait_s)
                     .set("checkpoint_s", totals.save_s)
                     .set("loss", totals.loss)
                     .set("train_accuracy", totals.accuracy)
                     .set("drop_rate", totals.drop_rate)
                     .set("load_imbalance", totals.load_imbalance);
  if (!totals.digest.empty()) summary.set("digest", totals.digest);
  write_file_atomically(config.run_dir / "summary.json", summary.dump(2) + "\n", ExitCode::other);
}

}  // namespace vitrail
