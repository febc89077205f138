#include "apps/train_loop.hpp"

#include <algorithm>
#include <utility>

#include "train/state_checkpoint.hpp"

namespace vitrail {

namespace {

std::int64_t last_step_of_job(const RunConfig& config, std::int64_t first, std::int64_t last) {
  if (!config.stop_after) return last;
  return std::min(last, first + std::max<std::int64_t>(*config.stop_after, 0));
}

LoaderPlan loader_plan(const TrainState& state, std::int64_t first, std::int64_t stop) {
  const Layout& layout = state.layout;
  return {.share = {layout.batch, layout.leaf_images, layout.leaves_per_pass, layout.ranks, layout.rank},
          .order = Order::shuffled,
          .seed = static_cast<std::uint64_t>(state.config.seed),
          .augmentation = {state.config.shift, state.config.flip},
          .first_step = first,
          .end_step = stop};
}

}  // namespace

TrainLoop::TrainLoop(const Log& log, TrainState& state, Trainer& trainer, CheckpointSaver& saver, Dataset dataset,
                     LoopPlan plan)
    : log_(log),
      state_(state),
      trainer_(trainer),
      saver_(saver),
      plan_(std::move(plan)),
      first_step_(state.step),
      stop_(last_step_of_job(state.config, first_step_, plan_.last_step)),
      loader_(std::move(dataset), loader_plan(state, first_step_, stop_)),
      causes_(state.ranks.world, state.config.run_dir, plan_.end, state.config.save_minutes),
      save_s_(plan_.save_guess_s) {
  if (plan_.is_saved) saved_step_ = first_step_;
  if (state.ranks.world.rank() != 0) return;
  metrics_file_.emplace(state.config.run_dir, first_step_);
  progress_.emplace(log, first_step_, stop_, state.layout.batch, plan_.terminal);
}

std::string TrainLoop::run() {
  trainer_.warm_up();
  const Stopwatch training;
  for (;;) {
    const Orders orders = meet();
    if (orders.save_failed) saver_.wait();  // throws: the run ends with the checkpoint before
    if (orders.stop && why_.empty()) why_ = orders.why;
    save_is_due_ = save_is_due_ || orders.save;
    report_saves();
    // On a device with a queue the next step may have been started; the state is whole when none is in flight.
    if (trainer_.steps_in_flight() == 0) {
      if (state_.step >= stop_) why_.clear();
      if (state_.step >= stop_ || !why_.empty()) break;
      if (save_is_due_ || saves_at(state_.step)) save();
    }
    take_step(starts_another(state_.step + 1));
  }
  totals_.train_s = training.seconds();
  if (progress_) progress_->finish();
  save();
  state_.ops.activity().begin("the wait for a checkpoint");
  saver_.wait();
  state_.ops.activity().end();
  report_saves();
  if (!why_.empty()) causes_.obeyed();
  return why_;
}

Orders TrainLoop::meet() {
  const std::int64_t steps = trainer_.steps_in_flight() + 1;
  return causes_.agree({.save_failed = saver_.failed(),
                        .time = {.left_s = 0,
                                 .longest_step_s = longest_step_s_,
                                 .steps = steps,
                                 .save_s = save_s_,
                                 .saves = saver_.running() ? 2 : 1}});
}

bool TrainLoop::saves_at(std::int64_t step) const {
  const std::int64_t every = state_.config.save_every;
  return every > 0 && step % every == 0 && step > first_step_ && step < stop_;
}

/// Whether the step after `step` may be started before `step` is done.
bool TrainLoop::starts_another(std::int64_t step) const {
  return why_.empty() && !save_is_due_ && step < stop_ && !saves_at(step);
}

void TrainLoop::take_step(bool another_follows) {
  const Stopwatch one;
  const bool saving = saver_.running();
  const StepReport report = trainer_.step(
      [&](Tensor raw_images, Tensor labels) { copy_block(loader_.next(), raw_images, labels); }, another_follows);
  const double step_s = one.seconds();
  const double wait_s = loader_.take_wait_s();
  if (saving) late_data_s_ += wait_s;
  longest_step_s_ = std::max(longest_step_s_, step_s);
  totals_.add(report, step_s, wait_s);
  if (metrics_file_) write_metrics(report, step_s, wait_s);
  if (progress_) progress_->after(report);
}

void TrainLoop::write_metrics(const StepReport& report, double step_s, double wait_s) {
  const bool is_due = report.step % std::max<std::int64_t>(state_.config.log_every, 1) == 0;
  if (!is_due && report.step != plan_.last_step) return;
  Json time = Json::object()
                  .set("images_per_s", static_cast<double>(state_.layout.batch) / step_s)
                  .set("data_wait_s", wait_s)
                  .set("elapsed_s", whole_.seconds());
  if (!finished_save_.is_null()) time.set("checkpoint", std::exchange(finished_save_, Json()));
  metrics_file_->write(report, time);
}

void TrainLoop::save() {
  save_is_due_ = false;
  if (std::exchange(saved_step_, state_.step) == state_.step) return;
  state_.ops.activity().begin("a checkpoint");
  saver_.start({state_.step, plan_.settings, layout_json(state_.layout),
                Json::object().set("images", state_.step * state_.layout.batch)},
               checkpoint_pieces(state_));
  state_.ops.activity().end();
  causes_.saved();
  report_saves();  // the one before, when it was waited for
}

void TrainLoop::report_saves() {
  for (const SaveTimes& times : saver_.take_finished()) {
    const double late_data_s = std::exchange(late_data_s_, 0.0);
    save_s_ = times.copy_s + times.seconds;
    totals_.add(times, late_data_s);
    finished_save_ = to_json(times, late_data_s);
    if (progress_) progress_->finish();
    log_.info(describe(times, late_data_s));
  }
}

}  // namespace vitrail
