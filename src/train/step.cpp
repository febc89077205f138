#include "train/step.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

#include "device/host_values.hpp"

namespace vitrail {

namespace {

constexpr std::int64_t kStepsInFlight = 2;

/// Calls `work`. What leaves it says in which part of the run it was, unless it is about the data or the numbers of a
/// step: these errors name their place themselves.
template <class Work>
auto in_part(const Work& work, const std::function<std::string(const Error&)>& part) {
  try {
    return work();
  } catch (const Error& error) {
    if (error.code() != ExitCode::other && error.code() != ExitCode::usage) throw;
    throw error.in(part(error));
  }
}

}  // namespace

Trainer::Trainer(TrainState& state, std::int64_t total_steps)
    : state_(state),
      schedule_(make_schedule(state.config, total_steps)),
      loss_(make_loss(state.config)),
      target_values_(make_target_values(state.config)),
      mixup_(make_mixup(state.config)),
      workers_{state.ops, *state.ranks.expert},
      collector_(state.config.model),
      feed_(state.device, state.acts),
      row_(state),
      norm_plan_(norm_plan(state)) {
  Arena measured("step");
  lay_out(measured);
  arena_ = std::make_unique<Arena>("step", state.device, measured.bytes());
  lay_out(*arena_);
  norm_plan_ = {};
  for (Started& started : steps_) started.numbers = HostTensor(state.device, Dtype::u8, numbers_.shape);
}

void Trainer::lay_out(Arena& arena) {
  clip_.emplace(arena, state_.device, norm_plan_, state_.layout.ranks, make_optimizer(state_.config).clip_norm);
  all_losses_ = allocate_with(arena, state_.device, std::vector<std::int64_t>{0, state_.acts.losses.elements()});
  numbers_ = arena.allocate(Dtype::u8, {state_.layout.passes() * state_.acts.report.bytes() + clip_->result().bytes()});
}

// --- a pass ----------------------------------------------------------------------------------------------------------

void Trainer::fetch(const NextPass& next_pass, std::int64_t step, std::int64_t pass, Started& started) {
  TrainState& s = state_;
  PassData host;
  s.ops.activity().during("the wait for the device", [&] { host = feed_.next(); });
  s.ops.activity().during("the wait for data", [&] { next_pass(host.raw_images, host.labels); });
  const auto* labels = host.labels.as<std::int32_t>();
  started.labels.insert(started.labels.end(), labels, labels + host.labels.elements());
  if (host.mix_weights) {
    draw_mixup(mixup_, static_cast<std::uint64_t>(s.config.seed), static_cast<std::uint64_t>(step),
               s.layout.first_image(pass) / s.layout.leaf_images, host.mix_weights);
  }
  feed_.send(s.acts);
}

void Trainer::prepare_images() {
  TrainState& s = state_;
  Activations& acts = s.acts;
  const bool mixed = mixup_.images > 1;
  const Tensor images = mixed ? acts.unmixed_images : acts.images;     // [I h w c]
  const Tensor targets = mixed ? acts.unmixed_targets : acts.targets;  // [I V]
  s.ops.normalize_images({.images = acts.raw_images, .y = images});
  s.ops.one_hot({.labels = acts.labels, .on = target_values_.on, .off = target_values_.off, .targets = targets});
  if (!mixed) return;
  for (const auto& [x, y] : {std::pair{images, acts.images}, {targets, acts.targets}}) {
    const Shape by_leaf{acts.shape.leaves, acts.shape.leaf_images, x.elements() / s.layout.pass_images()};
    s.ops.mix_images({.x = x.view(by_leaf), .weights = acts.mix_weights, .y = y.view(by_leaf)});
  }
}

void Trainer::place_pass(std::int64_t step, std::int64_t pass) {
  state_.acts.random = state_.layout.randomness(state_.config.model, static_cast<std::uint64_t>(state_.config.seed),
                                                static_cast<std::uint64_t>(step), pass);
}

void Trainer::forward() {
  TrainState& s = state_;
  prepare_images();
  draw_router_noise(s.ops, s.config.model, s.acts);
  vit_moe_forward(workers_, s.config.model, s.params, Mode::training, s.acts);
  vit_moe_loss(s.ops, loss_, 1.0 / static_cast<double>(s.layout.batch), true, s.acts);
}

// Backward passes write over what blocks have kept: without a queue, NaN and Inf are looked for before.
void Trainer::forward_backward(std::int64_t pass, Started* started) {
  TrainState& s = state_;
  const ModelConfig& model = s.config.model;
  forward();
  if (started != nullptr && !s.device.asynchronous()) look_at_pass(*started);
  const double group_scale = model.moe_blocks.empty() ? 0 : 1.0 / static_cast<double>(s.layout.groups(model));
  if (s.early_updates.empty() || all_losses_finite()) {
    vit_moe_backward(workers_, model, s.params, group_scale, s.acts, s.gradients);
  } else {
    clip_->set_halt(s.device, true);
  }
  // Losses that are not finite must halt the update: the next pass overwrites them.
  s.ops.block_square_sums(
      {.x = s.acts.losses, .block_begin = all_losses_, .sums = clip_->row().slice(row_.losses + pass, 1)});
  const std::int64_t bytes = s.acts.report.bytes();
  s.device.copy(s.acts.report, numbers_.slice(pass * bytes, bytes));
}

// Early updates cannot be taken back, so all ranks ask before the first one.
bool Trainer::all_losses_finite() const {
  std::int64_t finite = pass_is_finite() ? 1 : 0;
  state_.ranks.world.all_min({&finite, 1});
  return finite != 0;
}

void Trainer::add_gradients(std::int64_t pass) {
  TrainState& s = state_;
  s.dense->sync.add_pass(s.ops, s.dense->gradients, pass);
  if (s.expert) s.expert->sync.add_pass(s.ops, s.expert->gradients, pass);
}

// --- a step ----------------------------------------------------------------------------------------------------------

void Trainer::update(const StepReport& report) {
  TrainState& s = state_;
  const Tensor row = clip_->row();
  s.dense->optimizer.square_sums(s.ops, s.dense->sync.slice(), row.slice(0, s.dense->optimizer.slice().blocks));
  if (s.expert) {
    s.expert->optimizer.square_sums(s.ops, s.expert->sync.slice(),
                                    row.slice(row_.expert_blocks, s.expert->optimizer.slice().blocks));
  }
  clip_->run(s.ops, s.ranks.world);
  const std::int64_t bytes = clip_->result().bytes();
  s.device.copy(clip_->result(), numbers_.slice(numbers_.elements() - bytes, bytes));
  for (ParameterShare* share : {&*s.dense, s.expert ? &*s.expert : nullptr}) {
    if (share == nullptr) continue;
    share->optimizer.update(s.ops, {.gradient = share->sync.slice(),
                                    .learning_rate = report.learning_rate,
                                    .updates = report.step,
                                    .clip = clip_->scale(),
                                    .halt = clip_->halt(),
                                    .parameter = share->mine()});
    share->sync.publish(share->values);
  }
}

void Trainer::warm_up() {
  seal_after_step_ = !state_.device.asynchronous();
  if (seal_after_step_) return;
  in_part([this] { pass_blank_images(); }, [](const Error&) { return "the warm-up"; });
}

void Trainer::pass_blank_images() {
  TrainState& s = state_;
  s.device.zero(s.acts.raw_images);
  s.device.zero(s.acts.labels);
  clip_->set_halt(s.device, true);
  s.weights->refresh(s.ops);
  place_pass(s.step, 0);
  forward_backward(0, nullptr);
  add_gradients(0);
  StepReport report;
  report.step = 1;
  update(report);
  clip_->set_halt(s.device, false);
  s.ops.seal();
}

std::string Trainer::name_step(std::int64_t step, const Error& error) const {
  const std::int64_t first = state_.step + 1;
  const std::int64_t last = std::max(step, state_.step + steps_in_flight());
  if (!error.fault().late || first == last) return text("step ", step);
  return text("step ", step, ", while steps ", first, " and ", last, " were in the queue");
}

void Trainer::start_step(const NextPass& next_pass) {
  VITRAIL_EXPECT(steps_in_flight() < kStepsInFlight, ExitCode::other, "a third step is started",
                 "two are in flight, whose reports were not read", "This is a bug");
  const std::int64_t step = state_.step + steps_in_flight() + 1;
  state_.ops.activity().step(step);
  in_part([&] { queue_step(next_pass); }, [&](const Error& error) { return name_step(step, error); });
}

void Trainer::queue_step(const NextPass& next_pass) {
  TrainState& s = state_;
  Started& started = steps_[static_cast<std::size_t>(started_ % kStepsInFlight)];
  const std::int64_t before = s.step + steps_in_flight();
  started.report.step = before + 1;
  started.report.learning_rate = learning_rate(schedule_, before);
  started.labels.clear();
  started.culprit.clear();
  started.first_pass = feed_.sent();
  const std::int64_t passes = s.layout.passes();
  for (EarlyUpdate& early : s.early_updates) {
    early.learning_rate = started.report.learning_rate;
    early.updates = started.report.step;
  }
  for (std::int64_t pass = 0; pass < passes; ++pass) {
    fetch(next_pass, before, pass, started);
    place_pass(before, pass);
    if (passes == 1) {
      s.device.submit("step", [&] {
        s.weights->refresh(s.ops);
        forward_backward(0, &started);
        add_gradients(0);
        update(started.report);
      });
    } else {
      if (pass == 0) s.weights->refresh(s.ops);
      s.device.submit("pass", [&] { forward_backward(pass, &started); });
      add_gradients(pass);  // another list of calls after every pass
    }
    feed_.used();
  }
  if (passes > 1) s.device.submit("update", [&] { update(started.report); });
  s.device.download(numbers_, started.numbers.view());
  started.end = s.device.place();
  ++started_;
}

PassNumbers Trainer::numbers_of(const Started& started, std::int64_t pass) const {
  const Activations& acts = state_.acts;
  const std::int64_t bytes = acts.report.bytes(), labels = acts.labels.elements();
  return pass_numbers(acts, state_.config.model, started.numbers.view().slice(pass * bytes, bytes),
                      ConstTensor(started.labels.data() + pass * labels, acts.labels.shape, Dtype::i32));
}

StepReport Trainer::finish_step() {
  VITRAIL_EXPECT(steps_in_flight() > 0, ExitCode::other, "no step was started", "none can be finished",
                 "This is a bug");
  const std::int64_t step = state_.step + 1;
  state_.ops.activity().step(step);
  return in_part([this] { return wait_for_step(); }, [&](const Error& error) { return name_step(step, error); });
}

StepReport Trainer::wait_for_step() {
  TrainState& s = state_;
  Started& started = steps_[static_cast<std::size_t>(finished_ % kStepsInFlight)];
  s.ops.activity().during("the wait for the device", [&] { s.device.wait(started.end); });
  const std::int64_t passes = s.layout.passes();
  for (std::int64_t pass = 0; pass < passes; ++pass) {
    collector_.add_pass(numbers_of(started, pass), s.layout.pass_images());
  }
  StepReport& report = started.report;
  report.metrics = collector_.finish(s.ranks.world);
  const Tensor numbers = started.numbers.view();
  const std::int64_t bytes = clip_->result().bytes();
  const GlobalClip::Result clip = GlobalClip::read(numbers.slice(numbers.elements() - bytes, bytes));
  report.gradient_norm = clip.norm;
  report.whole_norm = s.early_updates.empty();
  report.clipped = clip.scale != 1.0;
  const bool finite = std::isfinite(report.metrics.total_loss()) && std::isfinite(report.gradient_norm);
  if (!finite || clip.halted) fail_with_culprit(started);
  s.step = report.step;
  ++finished_;
  if (std::exchange(seal_after_step_, false)) s.ops.seal();
  return std::move(report);
}

StepReport Trainer::step(const NextPass& next_pass, bool another_follows) {
  if (steps_in_flight() == 0) start_step(next_pass);
  if (another_follows && state_.device.asynchronous()) start_step(next_pass);
  return finish_step();
}

// --- numbers that are none -------------------------------------------------------------------------------------------

bool Trainer::pass_is_finite() const {
  const Activations& acts = state_.acts;
  return pass_numbers(acts, state_.config.model, acts.report, acts.labels).finite();
}

void Trainer::look_at_pass(Started& started) {
  if (!started.culprit.empty() || pass_is_finite()) return;
  started.culprit = first_not_finite(state_.device, state_.ops, state_.acts).value_or("");
}

// The passes of a queue have been overwritten by now, but nothing has changed since: the first bad one is done again if
// its images are still there. Every rank decides alike.
std::string Trainer::find_culprit(const Started& started) {
  TrainState& s = state_;
  const std::int64_t passes = s.layout.passes();
  std::int64_t first = passes;
  for (std::int64_t pass = passes; pass-- > 0;) {
    if (!numbers_of(started, pass).finite()) first = pass;
  }
  const bool mine = first < passes;
  std::int64_t first_of_all = first;
  s.ranks.world.all_min({&first_of_all, 1});
  if (first_of_all == passes) return "";
  if (!feed_.show(started.first_pass + first_of_all, s.acts)) {
    return mine ? text("pass ", first, " of the step, of which the loss is not finite") : "";
  }
  place_pass(started.report.step - 1, first_of_all);
  forward();
  return first == first_of_all ? first_not_finite(s.device, s.ops, s.acts).value_or("") : "";
}

void Trainer::fail_with_culprit(Started& started) {
  const StepReport& report = started.report;
  // Every rank is here: the numbers above are the same everywhere. The first rank that sees a culprit names it.
  if (state_.device.asynchronous()) started.culprit = find_culprit(started);
  std::string found = "the backward pass";
  const std::vector<std::string> all = state_.ranks.world.all_gather_strings(started.culprit);
  for (std::size_t rank = 0; rank < all.size(); ++rank) {
    if (all[rank].empty()) continue;
    found = text(all[rank], " on rank ", rank);
    break;
  }
  finished_ = started_;
  clip_->set_halt(state_.device, false);
  fail(ExitCode::numbers,
       {text("step ", report.step, ": loss ", report.metrics.total_loss(), ", gradient norm ", report.gradient_norm),
        text("the first NaN or Inf stands in ", found, "; ",
             state_.early_updates.empty() || !std::isfinite(report.metrics.total_loss())
                 ? "the parameters of the step before are untouched"
                 : "weights that are updated early (--early-update) are not those of the step before"),
        "Lower the learning rate, clip gradients, or check the data; --resume goes on from the last checkpoint"});
}

}  // namespace vitrail
