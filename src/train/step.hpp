#pragma once
// One optimisation step, as a list of calls in the order they happen.
//
// The device may still be at work when a step has been started: nothing between start_step() and finish_step() waits
// for it, allocates or copies to the host. Loss, norm, clipping and the decision whether the step is done at all are
// made on the device; the host reads a report of it afterwards.
//
// Steps and waits are marked in the back end's Activity, as its verbs are, and an Error other than those about data and
// numbers, which do so themselves, names the step.

#include <array>
#include <functional>
#include <string>
#include <vector>

#include "device/host_tensor.hpp"
#include "train/clipping.hpp"
#include "train/metrics.hpp"
#include "train/pass_feed.hpp"
#include "train/state.hpp"

namespace vitrail {

/// Puts the next pass's images u8 [I h w c] and labels i32 [I labels] of this rank into these tensors in host memory.
using NextPass = std::function<void(Tensor raw_images, Tensor labels)>;

struct StepReport {
  std::int64_t step = 0;  ///< number of this step, from 1
  Metrics metrics;
  double learning_rate = 0;
  double gradient_norm = 0;  ///< before clipping
  bool whole_norm = true;    ///< it is that of all gradients: none was made into an early update
  bool clipped = false;
};

class Trainer {
 public:
  Trainer(TrainState& state, std::int64_t total_steps);

  /// To be called before the first step. The back end is sealed when every shape has been seen and every primitive
  /// made: on a device with a queue, whose steps are recorded, now, by one pass and one update on blank images that
  /// change no parameter; elsewhere when the first step is done. Collective.
  void warm_up();

  /// Puts the step after the last started one into the device's queue. At most two may be started and not finished:
  /// the second does nothing if the first turns out not to be finite. Collective.
  void start_step(const NextPass& next_pass);
  /// Waits for the earliest started step; state.step counts it from then on. Collective. Error (numbers), with the
  /// parameters as they were, when loss or gradients are not finite: it names the step and where the first NaN or Inf
  /// stands. Steps that were started later are forgotten then.
  StepReport finish_step();
  /// Both. `another_follows`: on a device with a queue of its own, the next step is started before this one is waited
  /// for; only a next call of step() may touch the state before that.
  StepReport step(const NextPass& next_pass, bool another_follows = false);
  [[nodiscard]] std::int64_t steps_in_flight() const noexcept { return started_ - finished_; }

 private:
  /// A step that was started.
  struct Started {
    StepReport report;
    HostTensor numbers;                // u8: a report per pass, then GlobalClip::result
    std::vector<std::int32_t> labels;  // of all its passes
    std::int64_t first_pass = 0;       // as PassFeed counts
    Device::Place end = 0;
    std::string culprit;  // where this rank first saw a NaN or Inf; without a queue, looked at in every pass
  };

  void lay_out(Arena& arena);
  void pass_blank_images();
  void queue_step(const NextPass& next_pass);
  StepReport wait_for_step();
  /// "step 12", and which others were in the queue when an error of the device came up.
  [[nodiscard]] std::string name_step(std::int64_t step, const Error& error) const;
  void fetch(const NextPass& next_pass, std::int64_t step, std::int64_t pass, Started& started);
  void prepare_images();
  void place_pass(std::int64_t step, std::int64_t pass);
  void forward();
  void forward_backward(std::int64_t pass, Started* started);
  /// The numbers that this rank's last pass reports, on the host.
  [[nodiscard]] bool pass_is_finite() const;
  [[nodiscard]] bool all_losses_finite() const;
  void add_gradients(std::int64_t pass);
  void update(const StepReport& report);
  [[nodiscard]] PassNumbers numbers_of(const Started& started, std::int64_t pass) const;
  void look_at_pass(Started& started);
  [[noreturn]] void fail_with_culprit(Started& started);
  std::string find_culprit(const Started& started);

  TrainState& state_;
  Schedule schedule_;
  Loss loss_;
  TargetValues target_values_;
  Mixup mixup_;
  Workers workers_;
  MetricsCollector collector_;
  PassFeed feed_;
  StepRow row_;
  NormPlan norm_plan_;
  std::unique_ptr<Arena> arena_;
  std::optional<GlobalClip> clip_;
  Tensor all_losses_;  // i64 [2]: the one block that all losses of a pass are
  Tensor numbers_;     // u8: as Started::numbers
  std::array<Started, 2> steps_;
  std::int64_t started_ = 0;
  std::int64_t finished_ = 0;
  bool seal_after_step_ = false;
};

}  // namespace vitrail
