// Learning-rate schedules. [V-MoE, V-MoE tests]

#include <cmath>

#include <gtest/gtest.h>

#include "train/schedule.hpp"

namespace vitrail {
namespace {

/// Peak 0.1, warm-up 4, end 0.01, 8 steps.
Schedule example(ScheduleKind kind) {
  Schedule s;
  s.kind = kind;
  s.peak = .1;
  s.end = .01;
  s.warmup_steps = 4;
  s.total_steps = 8;
  s.power = .5;
  return s;
}

TEST(Schedule, WarmsUpFromZeroAndEndsAtItsEnd) {
  for (const ScheduleKind kind : {ScheduleKind::linear, ScheduleKind::cosine, ScheduleKind::polynomial}) {
    const Schedule s = example(kind);
    EXPECT_EQ(learning_rate(s, 0), 0);
    EXPECT_DOUBLE_EQ(learning_rate(s, 1), .025);
    EXPECT_DOUBLE_EQ(learning_rate(s, 4), .1);
    EXPECT_DOUBLE_EQ(learning_rate(s, 8), .01);
    EXPECT_DOUBLE_EQ(learning_rate(s, 9), .01);
    EXPECT_LT(learning_rate(s, 6), .1);
    EXPECT_GT(learning_rate(s, 6), .01);
  }
  EXPECT_DOUBLE_EQ(learning_rate(example(ScheduleKind::linear), 6), .055);
  EXPECT_DOUBLE_EQ(learning_rate(example(ScheduleKind::cosine), 5), .01 + .09 * .5 * (1 + std::cos(M_PI / 4)));
  EXPECT_DOUBLE_EQ(learning_rate(example(ScheduleKind::polynomial), 7), .01 + .09 * .5);
}

TEST(Schedule, DecaysExponentiallyDownToItsFloor) {
  Schedule s = example(ScheduleKind::exponential);
  s.decay_rate = .9;
  EXPECT_DOUBLE_EQ(learning_rate(s, 8), .1 * std::pow(.9, 4));
  EXPECT_DOUBLE_EQ(learning_rate(s, 9), .1 * std::pow(.9, 5));
  s.transition_steps = 2;
  s.staircase = true;
  EXPECT_DOUBLE_EQ(learning_rate(s, 9), .1 * std::pow(.9, 2));
  s.end_value = .085;
  EXPECT_DOUBLE_EQ(learning_rate(s, 6), .09);
  EXPECT_DOUBLE_EQ(learning_rate(s, 9), .085);
}

TEST(Schedule, CoolsDownToZeroAndNotBelow) {
  Schedule s = example(ScheduleKind::rsqrt);
  s.total_steps = 20;
  s.timescale = 5;
  s.cooldown_steps = 4;
  EXPECT_DOUBLE_EQ(learning_rate(s, 4), .1);
  EXPECT_DOUBLE_EQ(learning_rate(s, 9), .1 / std::sqrt(2.0));
  const double top = .1 / std::sqrt(1 + 12.0 / 5);
  EXPECT_DOUBLE_EQ(learning_rate(s, 16), top);
  EXPECT_DOUBLE_EQ(learning_rate(s, 18), top / 2);
  EXPECT_EQ(learning_rate(s, 20), 0);
  EXPECT_EQ(learning_rate(s, 25), 0);
}

TEST(Schedule, CanBeConstant) {
  Schedule s;
  s.peak = .003;
  s.warmup_steps = 10;
  EXPECT_EQ(learning_rate(s, 0), .003);
  EXPECT_EQ(learning_rate(s, 1000), .003);
}

}  // namespace
}  // namespace vitrail
