#include "train/schedule.hpp"

#include <algorithm>
#include <cmath>

namespace vitrail {

namespace {

/// Part of the way from the end of warm-up to total_steps, clamped to 0 .. 1.
double progress(const Schedule& s, double t) {
  const auto span = static_cast<double>(s.total_steps - s.warmup_steps);
  return span > 0 ? std::clamp((t - static_cast<double>(s.warmup_steps)) / span, 0.0, 1.0) : 1.0;
}

double exponential(const Schedule& s, double after_warmup) {
  double exponent = after_warmup / static_cast<double>(s.transition_steps);
  if (s.staircase) exponent = std::floor(exponent);
  const double value = s.peak * std::pow(s.decay_rate, exponent);
  if (!s.end_value) return value;
  return s.decay_rate < 1 ? std::max(value, *s.end_value) : std::min(value, *s.end_value);
}

double rsqrt(const Schedule& s, double t) {
  const auto warmup = static_cast<double>(s.warmup_steps);
  const auto cooldown = static_cast<double>(s.cooldown_steps);
  const double cooldown_begin = static_cast<double>(s.total_steps) - cooldown;
  if (s.cooldown_steps == 0 || t < cooldown_begin) return s.peak / std::sqrt(1 + (t - warmup) / s.timescale);
  const double from = s.peak / std::sqrt(1 + (cooldown_begin - warmup) / s.timescale);
  return std::max(0.0, from * (1 - (t - cooldown_begin) / cooldown));
}

}  // namespace

double learning_rate(const Schedule& s, std::int64_t step) {
  const auto t = static_cast<double>(step);
  if (s.kind == ScheduleKind::constant) return s.peak;
  if (step < s.warmup_steps) return s.peak * t / static_cast<double>(s.warmup_steps);
  switch (s.kind) {
    case ScheduleKind::constant:
      break;
    case ScheduleKind::linear:
      return s.end + (s.peak - s.end) * (1 - progress(s, t));
    case ScheduleKind::polynomial:
      return s.end + (s.peak - s.end) * std::pow(1 - progress(s, t), s.power);
    case ScheduleKind::cosine:
      return s.end + (s.peak - s.end) * 0.5 * (1 + std::cos(M_PI * progress(s, t)));
    case ScheduleKind::exponential:
      return exponential(s, t - static_cast<double>(s.warmup_steps));
    case ScheduleKind::rsqrt:
      return rsqrt(s, t);
  }
  return s.peak;
}

}  // namespace vitrail
