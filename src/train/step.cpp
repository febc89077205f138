#include "train/step.hpp"

#include <algorithm>
#include <cmath>

#include "device/host_values.hpp"

namespace vitrail {

Trainer::Trainer(TrainState& state, std::int64_t total_steps)
    : state_(state),
      schedule_(make_schedule(state.config, total_steps)),
      loss_(make_loss(state.config)),
      optimizer_(make_optimizer(state.config)),
      workers_{state.ops, *state.ranks.expert},
      collector_(state.config.model),
      norm_(state) {}

void Trainer::forward_backward(const NextPass& next_pass, std::int64_t pass) {
  TrainState& s = state_;
  const ModelConfig& model = s.config.model;
  Activations& acts = s.acts;
  next_pass(acts);
  s.ops.normalize_images({.images = acts.raw_images, .y = acts.images});
  s.ops.one_hot({.labels = acts.labels, .targets = acts.targets});
  acts.random =
      s.layout.randomness(model, static_cast<std::uint64_t>(s.config.seed), static_cast<std::uint64_t>(s.step), pass);
  draw_router_noise(s.ops, model, acts);
  vit_moe_forward(workers_, model, s.params, Mode::training, acts);
  vit_moe_loss(s.ops, loss_, 1.0 / static_cast<double>(s.layout.batch), true, acts);
  const double group_scale = model.moe_blocks.empty() ? 0 : 1.0 / static_cast<double>(s.layout.groups(model));
  vit_moe_backward(workers_, model, s.params, group_scale, acts, s.gradients);
}

void Trainer::warm_up() {
  forward_backward(
      [this](Activations& acts) {
        state_.device.zero(acts.raw_images);
        state_.device.zero(acts.labels);
      },
      0);
  state_.ops.seal();
}

namespace {

bool is_finite_loss(const Activations& acts) {
  const auto finite = [](const Tensor& values) {
    const std::vector<double> all = to_doubles(values);
    return std::all_of(all.begin(), all.end(), [](double value) { return std::isfinite(value); });
  };
  return finite(acts.loss) && std::all_of(acts.blocks.begin(), acts.blocks.end(), [&](const BlockActivations& block) {
           return finite(block.moe.importance) && finite(block.moe.load) && finite(block.moe.gshard) &&
                  finite(block.moe.z);
         });
}

}  // namespace

StepReport Trainer::step(const NextPass& next_pass) {
  TrainState& s = state_;
  StepReport report;
  report.step = s.step + 1;
  report.learning_rate = learning_rate(schedule_, s.step);
  culprit_.clear();

  for (std::int64_t pass = 0; pass < s.layout.passes(); ++pass) {
    forward_backward(next_pass, pass);
    // Looked at now: the next pass overwrites it.
    if (culprit_.empty() && !is_finite_loss(s.acts)) culprit_ = first_not_finite(s.ops, s.acts).value_or("");
    collector_.add_pass(s.acts, s.layout.pass_images());
    s.dense->sync.add_pass(s.ops, s.dense->gradients, pass);
    if (s.expert) s.expert->sync.add_pass(s.ops, s.expert->gradients, pass);
  }

  std::vector<double> expert_sums;
  const std::vector<double> dense_sums = s.dense->adamw.square_sums(s.ops, s.dense->sync.slice());
  if (s.expert) expert_sums = s.expert->adamw.square_sums(s.ops, s.expert->sync.slice());
  report.metrics = collector_.finish(s.ranks.world);
  report.gradient_norm = norm_(s.ranks.world, dense_sums, expert_sums);
  expect_finite(report);

  const double clip = clip_factor(optimizer_, report.gradient_norm);
  report.clipped = clip != 1.0;
  for (ParameterShare* share : {s.dense ? &*s.dense : nullptr, s.expert ? &*s.expert : nullptr}) {
    if (share == nullptr) continue;
    const FlatSlice& mine = share->adamw.slice();
    share->adamw.update(s.ops, share->sync.slice(), clip, report.learning_rate, report.step,
                        share->values.slice(mine.begin, mine.count));
    share->sync.publish(share->values);
  }
  s.step = report.step;
  return report;
}

void Trainer::expect_finite(const StepReport& report) {
  if (std::isfinite(report.metrics.total_loss()) && std::isfinite(report.gradient_norm)) return;
  // Every rank is here: the numbers above are the same everywhere. The first rank that sees a culprit names it.
  std::string found = "the backward pass";
  const std::vector<std::string> all = state_.ranks.world.all_gather_strings(culprit_);
  for (std::size_t rank = 0; rank < all.size(); ++rank) {
    if (all[rank].empty()) continue;
    found = text(all[rank], " on rank ", rank);
    break;
  }
  fail(ExitCode::numbers,
       {text("step ", report.step, ": loss ", report.metrics.total_loss(), ", gradient norm ", report.gradient_norm),
        text("the first NaN or Inf stands in ", found, "; the parameters of the step before are untouched"),
        "Lower the learning rate, clip gradients, or check the data; --resume goes on from the last checkpoint"});
}

}  // namespace vitrail
