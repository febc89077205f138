// Adafactor of the reference: numbers a person can check.

#include <cmath>

#include <gtest/gtest.h>

#include "ops/ops.hpp"
#include "tests/ops/random_tensors.hpp"

namespace vitrail::testing {
namespace {

/// One unit of n elements, fresh.
struct OneUnit {
  OneUnit(std::int64_t n, std::initializer_list<double> how, std::int64_t statistics_count)
      : gradient(Dtype::f64, {n}),
        factors(Dtype::i64, {1, 5}, how),
        parameter(Dtype::f64, {n}),
        statistics(Dtype::f64, {statistics_count}),
        m(Dtype::f64, {n}) {
    for (std::int64_t i = 0; i < n; ++i) parameter.set(i, 0), m.set(i, 0);
    for (std::int64_t i = 0; i < statistics_count; ++i) statistics.set(i, 0);
  }
  OwnedTensor gradient, begin{Dtype::i64, {1}, {0}}, factors, statistics_begin{Dtype::i64, {1}, {0}};
  OwnedTensor decay{Dtype::f64, {1}, {0}}, multiplier{Dtype::f64, {1}, {1}}, frozen{Dtype::u8, {1}, {0}};
  OwnedTensor parameter, statistics, m;
  double learning_rate = 1, decay_rate = 0, epsilon = 0, momentum = 0.5, clip_absolute = 0;
  OwnedTensor gradient_scale, halt;  // left out
  bool bf16_momentum = false;

  void step() {
    make_reference_ops()->adafactor_step({.gradient = gradient,
                                          .unit_begin = begin,
                                          .factors = factors,
                                          .statistics_begin = statistics_begin,
                                          .decay = decay,
                                          .multiplier = multiplier,
                                          .frozen = frozen,
                                          .gradient_scale = gradient_scale,
                                          .halt = halt,
                                          .clip_absolute = clip_absolute,
                                          .learning_rate = learning_rate,
                                          .decay_rate = decay_rate,
                                          .epsilon = epsilon,
                                          .momentum = momentum,
                                          .bf16_momentum = bf16_momentum,
                                          .parameter = parameter,
                                          .statistics = statistics,
                                          .m = m});
  }
};

void expect_near(const OwnedTensor& tensor, const std::vector<double>& expected) {
  ASSERT_EQ(tensor.elements(), std::ssize(expected));
  for (std::int64_t i = 0; i < tensor.elements(); ++i)
    EXPECT_NEAR(tensor.get(i), expected[static_cast<std::size_t>(i)], 1e-15) << "element " << i;
}

TEST(ReferenceAdafactor, DividesAVectorByItsRootMeanSquare) {
  OneUnit unit(2, {2, 0, 0, 0, 0}, 2);
  unit.gradient = OwnedTensor(Dtype::f64, {2}, {3, -4});
  unit.step();
  expect_near(unit.statistics, {9, 16});
  expect_near(unit.parameter, {-.5, .5});  // u = m = (1 - momentum) * sign
  unit.decay_rate = .75;
  unit.gradient = OwnedTensor(Dtype::f64, {2}, {1, 0});
  unit.step();
  expect_near(unit.statistics, {.75 * 9 + .25, 12});
  expect_near(unit.m, {.25 + .5 / std::sqrt(7.0), -.25});
  expect_near(unit.parameter, {-.5 - (.25 + .5 / std::sqrt(7.0)), .75});
}

TEST(ReferenceAdafactor, FactorsAMatrixOverItsRowsAndColumns) {
  // d^2 = [1 4; 9 16]: means over x 5, 10; over y 2.5, 12.5; of all 7.5.
  OneUnit unit(4, {1, 2, 1, 2, 1}, 4);
  unit.gradient = OwnedTensor(Dtype::f64, {4}, {1, 2, -3, 4});
  unit.m = OwnedTensor();
  unit.step();
  expect_near(unit.statistics, {5, 10, 2.5, 12.5});
  const auto u = [](double d, double over_x, double over_y) { return d / std::sqrt(over_x / 7.5 * over_y); };
  expect_near(unit.parameter, {-u(1, 5, 2.5), -u(2, 10, 2.5), u(3, 5, 12.5), -u(4, 10, 12.5)});
}

TEST(ReferenceAdafactor, FactorsEveryMatrixOfTheOtherAxesForItself) {
  // [a x b y c] = [1 2 2 1 2]: the four (b, c) each have two numbers, over x, and a mean over y of one number.
  OneUnit unit(8, {1, 2, 2, 1, 2}, 4 + 8);
  unit.gradient = OwnedTensor(Dtype::f64, {8}, {1, 1, 1, 1, 1, 3, 5, 7});
  unit.m = OwnedTensor();
  unit.step();
  expect_near(unit.statistics, {1, 5, 13, 25, 1, 1, 1, 1, 1, 9, 25, 49});
  // over_x / its mean is 1, and over_y the square of the gradient.
  expect_near(unit.parameter, {-1, -1, -1, -1, -1, -1, -1, -1});
}

TEST(ReferenceAdafactor, AddsEpsilonToTheSquares) {
  OneUnit unit(4, {1, 2, 1, 2, 1}, 4);
  unit.gradient = OwnedTensor(Dtype::f64, {4}, {0, 0, 0, 0});
  unit.epsilon = 1e-30;
  unit.step();
  for (std::int64_t i = 0; i < 4; ++i) EXPECT_NEAR(unit.statistics.get(i) / 1e-30, 1, 1e-15);
  expect_near(unit.parameter, {0, 0, 0, 0});
}

TEST(ReferenceAdafactor, ScalesClampsDecaysAndFreezesLikeAdamW) {
  OneUnit unit(2, {2, 0, 0, 0, 0}, 2);
  unit.gradient = OwnedTensor(Dtype::f64, {2}, {1, -20});
  unit.parameter = OwnedTensor(Dtype::f64, {2}, {1, 2});
  unit.multiplier.set(0, 4);
  unit.gradient_scale = OwnedTensor(Dtype::f64, {1}, {.5});
  unit.clip_absolute = 3;
  unit.decay.set(0, .1);
  unit.learning_rate = .5;
  OneUnit frozen = unit;
  frozen.frozen.set(0, 1);
  unit.step();
  expect_near(unit.statistics, {4, 9});
  expect_near(unit.parameter, {1 - .5 * (.5 + .1), 2 - .5 * (-.5 + .2)});
  frozen.step();
  expect_near(frozen.parameter, {1, 2});
  EXPECT_TRUE(same_bits(frozen.statistics, unit.statistics));
  EXPECT_TRUE(same_bits(frozen.m, unit.m));
}

TEST(ReferenceAdafactor, ABf16MomentumIsUsedUnroundedStoredRoundedAndDecaysInBf16) {
  OneUnit unit(1, {1, 0, 0, 0, 0}, 1);
  unit.gradient = OwnedTensor(Dtype::f64, {1}, {2});
  unit.momentum = .9;
  unit.bf16_momentum = true;
  unit.step();
  EXPECT_NEAR(unit.parameter.get(0), -.1, 1e-16) << "not bf16(.1) = 205 / 2048";
  EXPECT_EQ(unit.m.get(0), 205.0 / 2048);
  unit.gradient.set(0, 0);
  unit.decay_rate = .5;
  unit.step();
  EXPECT_EQ(unit.m.get(0), 184.0 / 2048) << "bf16(.9) = .8984375 times 205 / 2048, rounded";
}

TEST(ReferenceAdafactor, TouchesNothingBetweenItsUnits) {
  OwnedTensor gradient(Dtype::f64, {5}, {1, 1, 1, 1, 1}), parameter(Dtype::f64, {5}, {7, 7, 7, 7, 7});
  OwnedTensor statistics(Dtype::f64, {3}, {0, 0, 0}), m(Dtype::f64, {5}, {0, 0, 0, 0, 0});
  make_reference_ops()->adafactor_step({.gradient = gradient,
                                        .unit_begin = OwnedTensor(Dtype::i64, {2}, {0, 3}),
                                        .factors = OwnedTensor(Dtype::i64, {2, 5}, {1, 0, 0, 0, 0, 2, 0, 0, 0, 0}),
                                        .statistics_begin = OwnedTensor(Dtype::i64, {2}, {2, 0}),
                                        .decay = OwnedTensor(Dtype::f64, {2}, {0, 0}),
                                        .multiplier = OwnedTensor(Dtype::f64, {2}, {1, 2}),
                                        .frozen = OwnedTensor(Dtype::u8, {2}, {0, 0}),
                                        .learning_rate = 1,
                                        .parameter = parameter,
                                        .statistics = statistics,
                                        .m = m});
  expect_near(parameter, {6.9, 7, 7, 6.9, 6.9});
  EXPECT_EQ(statistics.values(), (std::vector<double>{4, 4, 1}));
}

}  // namespace
}  // namespace vitrail::testing
