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

namespace {

/// "--name" must be a number from 0 up.
void expect_not_negative(const char* name, double value) {
  VITRAIL_EXPECT(value >= 0 && std::isfinite(value), ExitCode::usage, text("--", name, " ", value),
                 "it must be a number from 0 up", "");
}

/// "--name" is the share that a running mean keeps.
void expect_share(const char* name, double value) {
  VITRAIL_EXPECT(value >= 0 && value < 1, ExitCode::usage, text("--", name, " ", value),
                 "running means forget: it lies in [0, 1)", "");
}

/// A setting that has no meaning here must stand at the value that it has by itself: somebody meant something by it.
void expect_unused(bool unused, const std::string& setting, const std::string& with, const std::string& belongs_to,
                   const std::string& by_itself) {
  VITRAIL_EXPECT(unused, ExitCode::usage, text("--", setting, " with --", with), text("it belongs to ", belongs_to),
                 text("Use ", by_itself, ", or another --", with.substr(0, with.find(' '))));
}

void expect_settings_of_schedule(const RunConfig& config, ScheduleKind kind) {
  const RunConfig usual;
  const std::string with = "schedule " + config.schedule;
  expect_unused(kind == ScheduleKind::polynomial || config.power == usual.power, text("power ", config.power), with,
                "polynomial", text("--power ", usual.power));
  expect_unused(kind == ScheduleKind::exponential || !config.staircase, "staircase", with, "exponential",
                "no --staircase");
  expect_unused(kind == ScheduleKind::rsqrt || config.cooldown == 0, text("cooldown ", config.cooldown), with, "rsqrt",
                "--cooldown 0");
  VITRAIL_EXPECT(kind != ScheduleKind::polynomial || (config.power > 0 && std::isfinite(config.power)), ExitCode::usage,
                 text("--power ", config.power), "the learning rate would not fall", "Give a number above 0");
  VITRAIL_EXPECT(kind != ScheduleKind::rsqrt || (config.timescale > 0 && std::isfinite(config.timescale)),
                 ExitCode::usage, text("--timescale ", config.timescale), "it is a number of steps above 0", "");
  if (kind != ScheduleKind::exponential) return;
  VITRAIL_EXPECT(config.decay_rate > 0 && std::isfinite(config.decay_rate), ExitCode::usage,
                 text("--decay-rate ", config.decay_rate), "it is a factor above 0 per transition", "");
  VITRAIL_EXPECT(config.transition_steps > 0, ExitCode::usage, text("--transition-steps ", config.transition_steps),
                 "a transition takes steps", "Give a share of the steps (below 1) or a number of steps");
  const bool falls = config.decay_rate < 1;
  VITRAIL_EXPECT(config.final_learning_rate == 0 || falls == (config.final_learning_rate <= config.learning_rate),
                 ExitCode::usage,
                 text("--final-learning-rate ", config.final_learning_rate, " with --learning-rate ",
                      config.learning_rate, " and --decay-rate ", config.decay_rate),
                 falls ? "a falling learning rate has its end below its peak"
                       : "a rising learning rate has its end above its peak",
                 "--final-learning-rate 0 sets no end");
}

}  // namespace

Schedule make_schedule(const RunConfig& config, std::int64_t total) {
  Schedule schedule;
  const auto& kinds = schedule_kinds();
  const auto kind =
      std::find_if(kinds.begin(), kinds.end(), [&](const auto& entry) { return entry.first == config.schedule; });
  VITRAIL_EXPECT(kind != kinds.end(), ExitCode::usage, text("schedule '", config.schedule, "'"),
                 "the schedules are constant, linear, cosine, polynomial, exponential and rsqrt",
                 did_you_mean(config.schedule, schedule_names()));
  expect_not_negative("learning-rate", config.learning_rate);
  expect_not_negative("final-learning-rate", config.final_learning_rate);
  expect_settings_of_schedule(config, kind->second);
  schedule.kind = kind->second;
  schedule.peak = config.learning_rate;
  schedule.end = config.final_learning_rate;
  schedule.total_steps = total;
  schedule.warmup_steps = steps_of_share(config.warmup, total);
  schedule.power = config.power;
  schedule.decay_rate = config.decay_rate;
  schedule.staircase = config.staircase;
  if (schedule.kind == ScheduleKind::exponential) {
    schedule.transition_steps = std::max<std::int64_t>(1, steps_of_share(config.transition_steps, total));
  }
  if (config.final_learning_rate > 0) schedule.end_value = config.final_learning_rate;
  schedule.cooldown_steps = steps_of_share(config.cooldown, total);
  schedule.timescale = config.timescale;
  VITRAIL_EXPECT(schedule.cooldown_steps == 0 || schedule.warmup_steps + schedule.cooldown_steps <= total,
                 ExitCode::usage,
                 text("--warmup and --cooldown take ", schedule.warmup_steps, " and ", schedule.cooldown_steps, " of ",
                      total, " steps"),
                 "together they are longer than the run", "Give shares of the steps, below 1");
  return schedule;
}

namespace {

const std::vector<std::pair<std::string, OptimizerKind>>& optimizer_kinds() {
  static const std::vector<std::pair<std::string, OptimizerKind>> kinds = {
      {"adamw", OptimizerKind::adamw}, {"sgd", OptimizerKind::sgd}, {"adafactor", OptimizerKind::adafactor}};
  return kinds;
}

OptimizerKind optimizer_kind(const std::string& name) {
  std::vector<std::string> names;
  for (const auto& [known, kind] : optimizer_kinds()) {
    if (known == name) return kind;
    names.push_back(known);
  }
  fail(ExitCode::usage,
       {text("optimizer '", name, "'"), "the optimizers are adamw, sgd and adafactor", did_you_mean(name, names)});
}

}  // namespace

OptimizerConfig make_optimizer(const RunConfig& config) {
  OptimizerConfig optimizer;
  optimizer.kind = optimizer_kind(config.optimizer);
  const bool adamw = optimizer.kind == OptimizerKind::adamw;
  expect_share("beta1", config.beta1);
  expect_share("beta2", config.beta2);
  expect_share("momentum", config.momentum);
  expect_share("average-decay", config.average_decay);
  expect_not_negative("epsilon", config.epsilon);
  expect_not_negative("weight-decay", config.weight_decay);
  expect_not_negative("clip-norm", config.clip_norm);
  VITRAIL_EXPECT(config.factored_above >= 2, ExitCode::usage, text("--factored-above ", config.factored_above),
                 "axes of one entry have nothing to factor", "Use at least 2");
  const RunConfig usual;
  const std::string with = "optimizer " + config.optimizer;
  expect_unused(!adamw || config.momentum == usual.momentum, text("momentum ", config.momentum), with,
                "sgd and adafactor; adamw has beta1", text("--momentum ", usual.momentum));
  expect_unused(optimizer.kind == OptimizerKind::adafactor || config.factored_above == usual.factored_above,
                text("factored-above ", config.factored_above), with, "adafactor",
                text("--factored-above ", usual.factored_above));
  expect_unused(adamw || config.momentum > 0 || !config.bf16_momentum, "bf16-momentum", "momentum 0", "a momentum",
                "no --bf16-momentum");
  optimizer.beta1 = config.beta1;
  optimizer.beta2 = config.beta2;
  optimizer.epsilon = config.epsilon;
  optimizer.momentum = config.momentum;
  optimizer.bf16_momentum = config.bf16_momentum;
  optimizer.factored_above = config.factored_above;
  optimizer.decay = {{config.weight_decay_pattern, config.weight_decay}};
  optimizer.clip_norm = config.clip_norm;
  optimizer.frozen = config.frozen;
  optimizer.average_decay = config.average_decay;
  return optimizer;
}

Loss make_loss(const RunConfig& config) {
  VITRAIL_EXPECT(config.loss == "softmax" || config.loss == "sigmoid", ExitCode::usage,
                 text("loss '", config.loss, "'"), "the losses are softmax and sigmoid",
                 did_you_mean(config.loss, std::vector<std::string>{"softmax", "sigmoid"}));
  return config.loss == "softmax" ? Loss::softmax : Loss::sigmoid;
}

std::vector<std::string> recompute_names() { return {"none", "mlp", "block"}; }

Recompute make_recompute(const RunConfig& config) {
  if (config.recompute == "none") return Recompute::none;
  if (config.recompute == "mlp") return Recompute::mlp;
  VITRAIL_EXPECT(config.recompute == "block", ExitCode::usage, text("recompute '", config.recompute, "'"),
                 "hidden layers, whole blocks or none are computed again",
                 did_you_mean(config.recompute, recompute_names()));
  return Recompute::block;
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

}  // namespace vitrail
