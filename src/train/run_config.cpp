#include "train/run_config.hpp"

#include <algorithm>
#include <cmath>

namespace vitrail {

void resolve(RunConfig& config) {
  config.model.moe_blocks = moe_blocks_by_name(config.moe, config.model.blocks);
  config.model.check();
  VITRAIL_EXPECT(config.shift >= 0, ExitCode::usage, text("--shift ", config.shift), "it counts pixels, each way", "");
  (void)make_target_values(config);
  (void)make_mixup(config);
}

std::int64_t total_steps(const RunConfig& config, std::int64_t examples) {
  VITRAIL_EXPECT((config.steps > 0) != (config.epochs > 0), ExitCode::usage,
                 text("the length of the run is given as ", config.steps, " steps and ", config.epochs, " epochs"),
                 "exactly one of the two must be positive", "Give --steps or --epochs");
  VITRAIL_EXPECT(config.batch > 0, ExitCode::usage, text("a batch of ", config.batch, " images"), "a step needs images",
                 "");
  if (config.steps > 0) return config.steps;
  const double exact = config.epochs * static_cast<double>(examples) / static_cast<double>(config.batch);
  // Round-off begins no step: 1.1 epochs of 100 examples are 11 batches of 10, not 12.
  const double steps = std::ceil(exact * (1 - 1e-12));
  VITRAIL_EXPECT(steps < 0x1p53, ExitCode::usage, text(config.epochs, " epochs"), "that is no number of steps", "");
  return static_cast<std::int64_t>(steps);
}

std::int64_t steps_of_share(double share, std::int64_t total) {
  VITRAIL_EXPECT(share >= 0 && std::isfinite(share), ExitCode::usage, text("a warm-up or cool-down of ", share),
                 "it is a share of the steps (below 1) or a number of steps", "");
  VITRAIL_EXPECT(share < 0x1p53, ExitCode::usage, text("a warm-up or cool-down of ", share, " steps"),
                 "no run is that long", "");
  return static_cast<std::int64_t>(std::llround(share < 1 ? share * static_cast<double>(total) : share));
}

namespace {
const std::vector<std::pair<std::string, ScheduleKind>>& schedule_kinds() {
  static const std::vector<std::pair<std::string, ScheduleKind>> kinds = {
      {"constant", ScheduleKind::constant},       {"linear", ScheduleKind::linear},
      {"cosine", ScheduleKind::cosine},           {"polynomial", ScheduleKind::polynomial},
      {"exponential", ScheduleKind::exponential}, {"rsqrt", ScheduleKind::rsqrt}};
  return kinds;
}
}  // namespace

std::vector<std::string> schedule_names() {
  std::vector<std::string> names;
  for (const auto& [name, kind] : schedule_kinds()) names.push_back(name);
  return names;
}

Schedule make_schedule(const RunConfig& config, std::int64_t total) {
  Schedule schedule;
  const auto& kinds = schedule_kinds();
  const auto kind =
      std::find_if(kinds.begin(), kinds.end(), [&](const auto& entry) { return entry.first == config.schedule; });
  VITRAIL_EXPECT(kind != kinds.end(), ExitCode::usage, text("schedule '", config.schedule, "'"),
                 "the schedules are constant, linear, cosine, polynomial, exponential and rsqrt",
                 did_you_mean(config.schedule, schedule_names()));
  VITRAIL_EXPECT(config.learning_rate >= 0 && std::isfinite(config.learning_rate), ExitCode::usage,
                 text("a learning rate of ", config.learning_rate), "it must be a number from 0 up", "");
  schedule.kind = kind->second;
  schedule.peak = config.learning_rate;
  schedule.end = config.final_learning_rate;
  schedule.total_steps = total;
  schedule.warmup_steps = steps_of_share(config.warmup, total);
  schedule.cooldown_steps = steps_of_share(config.cooldown, total);
  schedule.timescale = config.timescale;
  return schedule;
}

OptimizerConfig make_optimizer(const RunConfig& config) {
  for (const auto& [name, beta] : {std::pair{"beta1", config.beta1}, {"beta2", config.beta2}}) {
    VITRAIL_EXPECT(beta >= 0 && beta < 1, ExitCode::usage, text("--", name, " ", beta),
                   "Adam's means forget: it lies in [0, 1)", "");
  }
  for (const auto& [name, value] :
       {std::pair{"epsilon", config.epsilon}, {"weight-decay", config.weight_decay}, {"clip-norm", config.clip_norm}}) {
    VITRAIL_EXPECT(value >= 0 && std::isfinite(value), ExitCode::usage, text("--", name, " ", value),
                   "it must be a number from 0 up", "");
  }
  OptimizerConfig optimizer;
  optimizer.beta1 = config.beta1;
  optimizer.beta2 = config.beta2;
  optimizer.epsilon = config.epsilon;
  optimizer.decay = {{config.weight_decay_pattern, config.weight_decay}};
  optimizer.clip_norm = config.clip_norm;
  return optimizer;
}

Loss make_loss(const RunConfig& config) {
  VITRAIL_EXPECT(config.loss == "softmax" || config.loss == "sigmoid", ExitCode::usage,
                 text("loss '", config.loss, "'"), "the losses are softmax and sigmoid",
                 did_you_mean(config.loss, std::vector<std::string>{"softmax", "sigmoid"}));
  return config.loss == "softmax" ? Loss::softmax : Loss::sigmoid;
}

// (1 - a) y + a / V, for y = 1 and y = 0
TargetValues make_target_values(const RunConfig& config) {
  const double a = config.label_smoothing;
  VITRAIL_EXPECT(a >= 0 && a < 1, ExitCode::usage, text("--label-smoothing ", a),
                 "it is the part of a label that goes to all classes alike, in [0, 1)", "");
  const double off = a / static_cast<double>(config.model.classes);
  return {1 - a + off, off};
}

Mixup make_mixup(const RunConfig& config) {
  const std::vector<std::pair<std::string, MixupDraw>> draws = {
      {"step", MixupDraw::step}, {"leaf", MixupDraw::leaf}, {"image", MixupDraw::image}};
  const auto draw =
      std::find_if(draws.begin(), draws.end(), [&](const auto& entry) { return entry.first == config.mixup_draw; });
  VITRAIL_EXPECT(draw != draws.end(), ExitCode::usage, text("--mixup-draw ", config.mixup_draw),
                 "the draws are for every step, leaf or image",
                 did_you_mean(config.mixup_draw, std::vector<std::string>{"step", "leaf", "image"}));
  VITRAIL_EXPECT(config.mixup >= 0 && std::isfinite(config.mixup), ExitCode::usage, text("--mixup ", config.mixup),
                 "the concentration is a number from 0 up", "0 is no mixup");
  if (config.mixup == 0) return {};
  VITRAIL_EXPECT(config.mixup_images >= 2 && config.mixup_images <= config.leaf_images, ExitCode::usage,
                 text("--mixup-images ", config.mixup_images),
                 text("an image is mixed with at least one other of its leaf of ", config.leaf_images),
                 "Use fewer, or a larger --leaf-images");
  return {config.mixup, draw->second, config.mixup_images};
}

Layout make_layout(const RunConfig& config, std::int64_t rank, std::int64_t ranks) {
  Layout layout{config.batch, config.leaf_images, config.leaves_per_pass, ranks, rank, config.expert_parallel};
  if (layout.leaves_per_pass == 0 && layout.leaf_images > 0 && ranks > 0) {
    // The largest power of two that divides the leaves of a rank and keeps an expert-parallel group's leaves a subtree.
    const std::int64_t each = std::max<std::int64_t>(layout.leaves() / ranks, 1);
    const std::int64_t groups =
        std::max<std::int64_t>(layout.tree_leaves() / std::max<std::int64_t>(layout.expert_parallel, 1), 1);
    layout.leaves_per_pass = std::min(each & -each, groups & -groups);
  }
  layout.check(config.model);
  return layout;
}

namespace {

/// The small model of the quickstart: Fashion-MNIST on two cores.
RunConfig fmnist() {
  RunConfig c;
  ModelConfig& m = c.model;
  m.image_height = m.image_width = 28;
  m.channels = 1;
  m.patch_rows = m.patch_columns = 4;
  m.width = 64;
  m.mlp_width = 256;
  m.heads = 4;
  m.blocks = 2;
  m.classes = 10;
  m.experts = 8;
  m.experts_alike = false;
  m.router.selected = 2;
  c.moe = "every-2";
  c.batch = 64;
  c.leaf_images = 16;
  c.epochs = 8;
  c.learning_rate = 3e-3;
  c.final_learning_rate = 0;
  c.beta2 = 0.99;
  c.weight_decay = 0.05;
  c.schedule = "cosine";
  return c;
}

/// Its dense twin of equal FLOPs: an MoE block works on K * 1.05 slots per token, so every MLP is (1 + K * 1.05) / 2 as
/// wide, to a multiple of 8.
RunConfig fmnist_dense() {
  RunConfig c = fmnist();
  c.moe = "none";
  c.model.mlp_width = 400;
  return c;
}

using Maker = RunConfig (*)();
const std::vector<std::pair<std::string, Maker>>& presets() {
  static const std::vector<std::pair<std::string, Maker>> all = {{"fmnist", fmnist}, {"fmnist-dense", fmnist_dense}};
  return all;
}

}  // namespace

std::vector<std::string> preset_names() {
  std::vector<std::string> names;
  for (const auto& [name, maker] : presets()) names.push_back(name);
  return names;
}

RunConfig preset(const std::string& name) {
  for (const auto& [known, maker] : presets()) {
    if (known == name) return maker();
  }
  fail(ExitCode::usage,
       {text("unknown preset '", name, "'"), "see --help for the presets", did_you_mean(name, preset_names())});
}

}  // namespace vitrail
