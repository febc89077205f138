#include "train/run_config.hpp"

#include <algorithm>
#include <cmath>

namespace vitrail {

void resolve(RunConfig& config) {
  config.model.moe_blocks = moe_blocks_by_name(config.moe, config.model.blocks);
  config.model.check();
  VITRAIL_EXPECT(config.shift >= 0, ExitCode::usage, text("--shift ", config.shift), "it counts pixels, each way", "");
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
