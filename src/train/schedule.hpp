#pragma once
// Learning-rate schedules of the original implementation. [V-MoE]

#include <cstdint>
#include <optional>

namespace vitrail {

enum class ScheduleKind : std::uint8_t { constant, linear, cosine, polynomial, exponential, rsqrt };

struct Schedule {
  ScheduleKind kind = ScheduleKind::constant;
  double peak = 1e-3;                 ///< the value of `constant`
  double end = 0;                     ///< linear, cosine, polynomial: reached at total_steps
  std::int64_t warmup_steps = 0;      ///< linear from 0; all kinds but constant
  std::int64_t total_steps = 0;       ///< all kinds but constant and exponential
  double power = 1;                   ///< polynomial
  std::int64_t transition_steps = 1;  ///< exponential
  double decay_rate = 1;              ///< exponential
  std::optional<double> end_value;    ///< exponential: a floor when decaying
  bool staircase = false;             ///< exponential: floor of the exponent
  double timescale = 1;               ///< rsqrt
  std::int64_t cooldown_steps = 0;    ///< rsqrt: linear to 0 at the end
};

/// The learning rate of the update that has `step` updates before it (0 = the first). Never negative.
double learning_rate(const Schedule& schedule, std::int64_t step);

}  // namespace vitrail
