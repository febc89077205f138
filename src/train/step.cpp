#include "train/step.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

#include "device/host_values.hpp"

namespace vitrail {

Trainer::Trainer(TrainState& state, std::int64_t total_steps)
    : state_(state),
      schedule_(make_schedule(state.config, total_steps)),
      loss_(make_loss(state.config)),
      target_values_(make_target_values(state.config)),
      mixup_(make_mixup(state.config)),
      optimizer_(make_optimizer(state.config)),
      workers_{state.ops, *state.ranks.expert},
      collector_(state.config.model),
      norm_(state) {}

void Trainer::take_images(const NextPass& next_pass, std::int64_t pass) {
  TrainState& s = state_;
  Activations& acts = s.acts;
  const bool mixed = mixup_.images > 1;
  const Tensor images = mixed ? acts.unmixed_images : acts.images;     // [I h w c]
  const Tensor targets = mixed ? acts.unmixed_targets : acts.targets;  // [I V]
  next_pass(acts);
  s.ops.normalize_images({.images = acts.raw_images, .y = images});
  s.ops.one_hot({.labels = acts.labels, .on = target_values_.on, .off = target_values_.off, .targets = targets});
  if (!mixed) return;
  draw_mixup(mixup_, static_cast<std::uint64_t>(s.config.seed), static_cast<std::uint64_t>(s.step),
             s.layout.first_image(pass) / s.layout.leaf_images, acts.mix_weights);
  for (const auto& [x, y] : {std::pair{images, acts.images}, {targets, acts.targets}}) {
    const Shape by_leaf{acts.shape.leaves, acts.shape.leaf_images, x.elements() / s.layout.pass_images()};
    s.ops.mix_images({.x = x.view(by_leaf), .weights = acts.mix_weights, .y = y.view(by_leaf)});
  }
}

void Trainer::forward_backward(const NextPass& next_pass, std::int64_t pass) {
  TrainState& s = state_;
  const ModelConfig& model = s.config.model;
  Activations& acts = s.acts;
  if (pass == 0) s.weights->refresh(s.ops);
  acts.random =
      s.layout.randomness(model, static_cast<std::uint64_t>(s.config.seed), static_cast<std::uint64_t>(s.step), pass);
  take_images(next_pass, pass);
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
  const std::vector<double> dense_sums = s.dense->optimizer.square_sums(s.ops, s.dense->sync.slice());
  if (s.expert) expert_sums = s.expert->optimizer.square_sums(s.ops, s.expert->sync.slice());
  report.metrics = collector_.finish(s.ranks.world);
  report.gradient_norm = norm_(s.ranks.world, dense_sums, expert_sums);
  expect_finite(report);

  const double clip = clip_factor(optimizer_, report.gradient_norm);
  report.clipped = clip != 1.0;
  for (ParameterShare* share : {s.dense ? &*s.dense : nullptr, s.expert ? &*s.expert : nullptr}) {
    if (share == nullptr) continue;
    share->optimizer.update(s.ops, share->sync.slice(), clip, report.learning_rate, report.step, share->mine());
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
