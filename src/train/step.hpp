#pragma once
// One optimisation step, as a list of calls in the order they happen.

#include <functional>

#include "train/metrics.hpp"
#include "train/state.hpp"

namespace vitrail {

/// Puts the next pass's images and labels of this rank into acts.raw_images and acts.labels.
using NextPass = std::function<void(Activations& acts)>;

struct StepReport {
  std::int64_t step = 0;  ///< number of this step, from 1
  Metrics metrics;
  double learning_rate = 0;
  double gradient_norm = 0;  ///< before clipping
  bool clipped = false;
};

class Trainer {
 public:
  Trainer(TrainState& state, std::int64_t total_steps);

  /// One pass on blank images, so that every shape has been seen and every primitive made; no parameter changes. Then
  /// seals the back end.
  void warm_up();
  /// Step state.step + 1. Collective. Error (numbers), with the parameters as they were, when loss or gradients are not
  /// finite: it names the step and where the first NaN or Inf stands.
  StepReport step(const NextPass& next_pass);

 private:
  void forward_backward(const NextPass& next_pass, std::int64_t pass);
  void take_images(const NextPass& next_pass, std::int64_t pass);
  void expect_finite(const StepReport& report);

  TrainState& state_;
  Schedule schedule_;
  Loss loss_;
  TargetValues target_values_;
  Mixup mixup_;
  OptimizerConfig optimizer_;
  Workers workers_;
  MetricsCollector collector_;
  GlobalNorm norm_;
  std::string culprit_;  ///< where this rank first saw a NaN or Inf in this step
};

}  // namespace vitrail
