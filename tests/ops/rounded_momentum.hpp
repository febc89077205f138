#pragma once
// Two updates of one parameter with a momentum in bfloat16, worked by hand, for the tests of the fast back ends.

#include <cmath>

#include <gtest/gtest.h>

#include "ops/ops.hpp"
#include "tests/ops/random_tensors.hpp"

namespace vitrail::testing {

/// The momentum is stored rounded and decays in bfloat16; the update takes it unrounded.
inline void expect_rounded_momentum(Ops& ops) {
  OwnedTensor parameter(Dtype::f32, {1}, {0}), m(Dtype::f32, {1}, {0}), v = m, trace = m, momentum = m, statistics = m;
  const OwnedTensor begin(Dtype::i64, {2}, {0, 1}), one(Dtype::f64, {1}, {1}), none(Dtype::f64, {1}, {0});
  const OwnedTensor first(Dtype::i64, {1}, {0}), free(Dtype::u8, {1}, {0});
  for (const bool second : {false, true}) {
    const OwnedTensor gradient(Dtype::f32, {1}, {second ? 0.0 : 1.0});
    ops.adamw_step({.gradient = gradient,
                    .block_begin = begin,
                    .decay = none,
                    .multiplier = one,
                    .frozen = free,
                    .learning_rate = 1,
                    .updates = second ? 2 : 1,
                    .bf16_moment = true,
                    .parameter = parameter,
                    .m = m,
                    .v = v});
    if (!second) {
      EXPECT_NEAR(parameter.get(0), -1, 1e-6) << "the update is not rounded";
    }
    EXPECT_EQ(m.get(0), (second ? 184.0 : 205.0) / 2048);
    parameter.set(0, 0);
    ops.sgd_step({.gradient = OwnedTensor(Dtype::f32, {1}, {second ? 0.0 : 0.1}),
                  .block_begin = begin,
                  .decay = none,
                  .multiplier = one,
                  .frozen = free,
                  .learning_rate = 1,
                  .momentum = 0.9,
                  .bf16_trace = true,
                  .parameter = parameter,
                  .trace = trace});
    if (!second) {
      EXPECT_EQ(parameter.as<float>()[0], -0.1F) << "the update is not rounded";
    }
    EXPECT_EQ(trace.get(0), (second ? 184.0 : 205.0) / 2048);
    parameter.set(0, 0);
    ops.adafactor_step({.gradient = OwnedTensor(Dtype::f32, {1}, {second ? 0.0 : 2.0}),
                        .unit_begin = first,
                        .factors = OwnedTensor(Dtype::i64, {1, 5}, {1, 0, 0, 0, 0}),
                        .statistics_begin = first,
                        .decay = none,
                        .multiplier = one,
                        .frozen = free,
                        .learning_rate = 1,
                        .decay_rate = 0.5,
                        .bf16_momentum = true,
                        .parameter = parameter,
                        .statistics = statistics,
                        .m = momentum});
    if (!second) {
      EXPECT_NEAR(parameter.get(0), -0.1 * std::sqrt(2.0), 1e-7) << "the update is not rounded";
    }
    EXPECT_EQ(momentum.get(0), (second ? 130.0 : 145.0) / 1024);  // .1414 and .8984375 * 145 / 1024 to eight bits
    parameter.set(0, 0);
  }
}

}  // namespace vitrail::testing
