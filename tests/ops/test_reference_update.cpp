// Losses, random numbers and the parameter update of the reference: numbers a person can check.

#include <cmath>
#include <limits>
#include <numbers>

#include <gtest/gtest.h>

#include "ops/ops.hpp"
#include "tests/ops/random_tensors.hpp"

namespace vitrail::testing {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();

OwnedTensor empty(Shape shape) { return OwnedTensor(Dtype::f64, shape); }

class ReferenceUpdate : public ::testing::Test {
 protected:
  std::unique_ptr<Ops> ops_ = make_reference_ops();
};

// --- losses ----------------------------------------------------------------------------------------------------------

TEST_F(ReferenceUpdate, OneHotOfALabelOutsideIsAllOff) {
  const OwnedTensor labels(Dtype::i32, {3, 1}, {2, -1, 4});
  OwnedTensor targets = empty({3, 4});
  ops_->one_hot({.labels = labels, .targets = targets});
  EXPECT_EQ(targets.values(), (std::vector<double>{0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0}));
  ops_->one_hot({.labels = labels, .on = 0.75, .off = 0.25, .targets = targets});
  EXPECT_EQ(targets.values(), (std::vector<double>{.25, .25, .75, .25, .25, .25, .25, .25, .25, .25, .25, .25}));
}

TEST_F(ReferenceUpdate, SoftmaxCrossEntropyOfProbabilitiesIsTheirLog) {
  const double p[] = {.1, .9, .2, .8, .3, .7, .4, .6};
  OwnedTensor logits = empty({4, 2}), targets = empty({4, 2}), loss = empty({4}), dlogits = empty({4, 2});
  for (std::int64_t i = 0; i < 8; ++i) logits.set(i, std::log(p[i]));
  const OwnedTensor labels(Dtype::i32, {4, 1}, {0, 0, 1, 1});
  ops_->one_hot({.labels = labels, .targets = targets});
  ops_->softmax_cross_entropy({.logits = logits, .targets = targets, .scale = 0.5, .loss = loss, .dlogits = dlogits});
  const double expected[] = {.1, .2, .7, .6};
  for (std::int64_t i = 0; i < 4; ++i) EXPECT_NEAR(loss.get(i), -std::log(expected[i]), 1e-15);
  EXPECT_NEAR(dlogits.get(0), 0.5 * (.1 - 1), 1e-15);
  EXPECT_NEAR(dlogits.get(1), 0.5 * .9, 1e-15);
}

TEST_F(ReferenceUpdate, SigmoidCrossEntropyOfZeroLogitsIsLogTwoPerClass) {
  const OwnedTensor logits(Dtype::f64, {1, 3}, {0, 0, 0}), targets(Dtype::f64, {1, 3}, {1, 0, 0.3});
  OwnedTensor loss = empty({1}), dlogits = empty({1, 3});
  ops_->sigmoid_cross_entropy({.logits = logits, .targets = targets, .scale = 2, .loss = loss, .dlogits = dlogits});
  EXPECT_NEAR(loss.get(0), 3 * std::numbers::ln2, 1e-15);
  EXPECT_NEAR(dlogits.get(0), -1.0, 1e-15);
  EXPECT_NEAR(dlogits.get(1), 1.0, 1e-15);
  EXPECT_NEAR(dlogits.get(2), 0.4, 1e-15);
}

TEST_F(ReferenceUpdate, LargeLogitsDoNotOverflow) {
  const OwnedTensor logits(Dtype::f64, {1, 2}, {1000, -1000}), targets(Dtype::f64, {1, 2}, {0, 1});
  OwnedTensor loss = empty({1}), dlogits = empty({1, 2});
  ops_->sigmoid_cross_entropy({.logits = logits, .targets = targets, .scale = 1, .loss = loss, .dlogits = dlogits});
  EXPECT_EQ(loss.get(0), 2000.0);
  EXPECT_EQ(dlogits.values(), (std::vector<double>{1, -1}));
  ops_->softmax_cross_entropy({.logits = logits, .targets = targets, .scale = 1, .loss = loss, .dlogits = dlogits});
  EXPECT_EQ(loss.get(0), 2000.0);
  EXPECT_EQ(dlogits.values(), (std::vector<double>{1, -1}));
}

TEST_F(ReferenceUpdate, SmallLossesKeepTheirDigits) {
  const OwnedTensor logits(Dtype::f64, {1, 1}, {40}), targets(Dtype::f64, {1, 1}, {1});
  OwnedTensor loss = empty({1});
  ops_->sigmoid_cross_entropy({.logits = logits, .targets = targets, .scale = 1, .loss = loss, .dlogits = {}});
  EXPECT_NEAR(loss.get(0) / std::exp(-40.0), 1.0, 1e-15);
}

TEST_F(ReferenceUpdate, PredictsTheFirstOfTheLargestAndNeverNan) {
  const OwnedTensor logits(Dtype::f64, {4, 3}, {1, 3, 3, kNan, 1, 0, 2, kNan, 5, kNan, kNan, kNan});
  OwnedTensor predicted(Dtype::i32, {4});
  ops_->predict({.logits = logits, .predicted = predicted});
  EXPECT_EQ(predicted.values(), (std::vector<double>{1, 1, 2, 0}));
}

// --- random numbers and sums -----------------------------------------------------------------------------------------

TEST_F(ReferenceUpdate, RandomNumbersArePhiloxAndDoNotDependOnTheCut) {
  OwnedTensor whole = empty({10}), rest = empty({6});
  ops_->random_normal(
      {.seed = 42, .purpose = Purpose::router_noise, .step = 7, .layer = 3, .first_index = 8, .y = whole});
  ops_->random_normal(
      {.seed = 42, .purpose = Purpose::router_noise, .step = 7, .layer = 3, .first_index = 11, .y = rest});
  const Philox philox(42, Purpose::router_noise, 7, 3);
  for (std::int64_t i = 0; i < 10; ++i) EXPECT_EQ(whole.get(i), philox.normal(static_cast<std::uint64_t>(8 + i)));
  for (std::int64_t i = 0; i < 6; ++i) EXPECT_EQ(rest.get(i), whole.get(3 + i));
}

TEST_F(ReferenceUpdate, AccumulateAddsIntoTheEarlierLeaves) {
  const OwnedTensor x(Dtype::f64, {2}, {1, 2});
  OwnedTensor y(Dtype::f64, {2}, {10, 20});
  ops_->accumulate({.x = x, .y = y});
  EXPECT_EQ(y.values(), (std::vector<double>{11, 22}));
}

TEST_F(ReferenceUpdate, SquareSumsAreOfBlocks) {
  const OwnedTensor x(Dtype::f64, {4}, {1, 2, 3, 4}), begin(Dtype::i64, {4}, {0, 1, 1, 4});
  OwnedTensor sums = empty({3});
  ops_->block_square_sums({.x = x, .block_begin = begin, .sums = sums});
  EXPECT_EQ(sums.values(), (std::vector<double>{1, 0, 29}));
}

TEST_F(ReferenceUpdate, FindsNanAndInfinity) {
  OwnedTensor finite(Dtype::i32, {1});
  for (const double odd : {kNan, kInfinity, -kInfinity}) {
    ops_->all_finite({.x = OwnedTensor(Dtype::f64, {3}, {1, 2, odd}), .finite = finite});
    EXPECT_EQ(finite.get(0), 0.0);
  }
  ops_->all_finite({.x = OwnedTensor(Dtype::f64, {3}, {1, 2, 3}), .finite = finite});
  EXPECT_EQ(finite.get(0), 1.0);
}

// --- clipping by norm ------------------------------------------------------------------------------------------------

struct Clip {
  OwnedTensor norm{Dtype::f64, {1}}, scale{Dtype::f64, {1}}, halt{Dtype::i32, {1}, {0}};

  void run(Ops& ops, const OwnedTensor& sums, double clip_norm) {
    ops.clip_scale({.sums = sums,
                    .order = OwnedTensor(Dtype::i64, {2}, {2, 0}),
                    .weights = OwnedTensor(Dtype::f64, {2}, {4, 1}),
                    .clip_norm = clip_norm,
                    .norm = norm,
                    .scale = scale,
                    .halt = halt});
  }
};

TEST_F(ReferenceUpdate, ClippingBringsALargerNormToTheLimit) {
  const OwnedTensor sums(Dtype::f64, {3}, {9, 100, 4});  // the second is in no place of the order
  Clip clip;
  clip.run(*ops_, sums, 2);
  EXPECT_EQ(clip.norm.get(0), 5) << "root of 4 * 4 + 9";
  EXPECT_EQ(clip.scale.get(0), .4);
  for (const double off : {0.0, 5.5}) {
    clip.run(*ops_, sums, off);
    EXPECT_EQ(clip.scale.get(0), 1);
  }
  clip.run(*ops_, sums, 5);
  EXPECT_EQ(clip.scale.get(0), 1);
  EXPECT_EQ(clip.halt.get(0), 0);
}

TEST_F(ReferenceUpdate, AnySumThatIsNotFiniteHaltsAndNothingResumes) {
  for (const double odd : {kNan, kInfinity}) {
    for (const std::int64_t place : {0, 1, 2}) {
      Clip clip;
      OwnedTensor sums(Dtype::f64, {3}, {9, 100, 4});
      sums.set(place, odd);
      clip.run(*ops_, sums, 2);
      EXPECT_EQ(clip.halt.get(0), 1) << odd << " at " << place;
      sums.set(place, 1);
      clip.run(*ops_, sums, 2);
      EXPECT_EQ(clip.halt.get(0), 1) << "later sums are finite";
    }
  }
}

// --- AdamW -----------------------------------------------------------------------------------------------------------

// Parameters a and b in two blocks of their own.
struct TwoParameters {
  OwnedTensor parameter{Dtype::f64, {2}, {.1, .2}}, m{Dtype::f64, {2}, {0, 0}}, v{Dtype::f64, {2}, {0, 0}};
  OwnedTensor gradient{Dtype::f64, {2}, {.1, .2}}, begin{Dtype::i64, {3}, {0, 1, 2}};
  OwnedTensor decay{Dtype::f64, {2}, {0, 0}}, multiplier{Dtype::f64, {2}, {1, 1}}, frozen{Dtype::u8, {2}, {0, 0}};
  OwnedTensor gradient_scale, halt;  // left out
  double clip_absolute = 0.0, learning_rate = 1.0;
  bool bf16_moment = false;

  void step(Ops& ops, std::int64_t updates) {
    ops.adamw_step({.gradient = gradient,
                    .block_begin = begin,
                    .decay = decay,
                    .multiplier = multiplier,
                    .frozen = frozen,
                    .gradient_scale = gradient_scale,
                    .halt = halt,
                    .clip_absolute = clip_absolute,
                    .learning_rate = learning_rate,
                    .updates = updates,
                    .bf16_moment = bf16_moment,
                    .parameter = parameter,
                    .m = m,
                    .v = v});
  }
};

TEST_F(ReferenceUpdate, TheFirstStepIsTheSignOfTheGradient) {
  TwoParameters p;
  p.learning_rate = 0.01;
  p.step(*ops_, 1);
  // m / (1 - b1) = d and sqrt(v / (1 - b2)) = |d|: u = d / (|d| + 1e-8)
  EXPECT_NEAR(p.parameter.get(0), .1 - .01 * .1 / (.1 + 1e-8), 1e-16);
  EXPECT_NEAR(p.parameter.get(1), .2 - .01 * .2 / (.2 + 1e-8), 1e-16);
  EXPECT_NEAR(p.m.get(0), .01, 1e-17);
  EXPECT_NEAR(p.v.get(1), .04 * .001, 1e-18);
}

TEST_F(ReferenceUpdate, WeightDecayIsDecoupledAndOfABlock) {
  // Without a gradient the update is decay * parameter alone: .1 * .1 for a, and .3 * .2 for b.
  TwoParameters p;
  p.gradient = OwnedTensor(Dtype::f64, {2}, {0, 0});
  p.decay = OwnedTensor(Dtype::f64, {2}, {.1, .3});
  p.learning_rate = 0.5;
  p.step(*ops_, 1);
  EXPECT_NEAR(p.parameter.get(0), .1 - .5 * .01, 1e-16);
  EXPECT_NEAR(p.parameter.get(1), .2 - .5 * .06, 1e-16);
}

TEST_F(ReferenceUpdate, TheSecondStepCorrectsBothMoments) {
  TwoParameters p;
  p.learning_rate = 0.0;
  p.step(*ops_, 1);
  EXPECT_EQ(p.parameter.values(), (std::vector<double>{.1, .2})) << "learning rate 0 moves the moments alone";
  p.gradient = OwnedTensor(Dtype::f64, {2}, {.3, .2});
  p.learning_rate = 1.0;
  p.step(*ops_, 2);
  const double m = .9 * .01 + .1 * .3, v = .999 * 1e-5 + .001 * .09;
  const double u = m / (1 - .81) / (std::sqrt(v / (1 - .999 * .999)) + 1e-8);
  EXPECT_NEAR(p.parameter.get(0), .1 - u, 1e-13);
}

TEST_F(ReferenceUpdate, AFrozenBlockKeepsItsParametersAndMovesItsMoments) {
  TwoParameters p, free;
  p.decay = OwnedTensor(Dtype::f64, {2}, {.1, .1});
  p.frozen = OwnedTensor(Dtype::u8, {2}, {0, 1});
  p.step(*ops_, 1);
  free.step(*ops_, 1);
  EXPECT_NE(p.parameter.get(0), .1);
  EXPECT_EQ(p.parameter.get(1), .2);
  EXPECT_TRUE(same_bits(p.m, free.m));
  EXPECT_TRUE(same_bits(p.v, free.v));
}

TEST_F(ReferenceUpdate, GradientsAreMultipliedThenScaledThenClamped) {
  // A global clip of 2 on (1, 2): (2 / sqrt 5, 4 / sqrt 5).
  TwoParameters p;
  p.gradient = OwnedTensor(Dtype::f64, {2}, {1, 2});
  p.gradient_scale = OwnedTensor(Dtype::f64, {1}, {2 / std::sqrt(5.0)});
  p.step(*ops_, 1);
  EXPECT_NEAR(p.m.get(0), .1 * 2 / std::sqrt(5.0), 1e-16);
  EXPECT_NEAR(p.m.get(1), .1 * 4 / std::sqrt(5.0), 1e-16);
  TwoParameters q;
  q.gradient = OwnedTensor(Dtype::f64, {2}, {-1, 2});
  q.multiplier = OwnedTensor(Dtype::f64, {2}, {3, .25});
  q.gradient_scale = OwnedTensor(Dtype::f64, {1}, {.5});
  q.clip_absolute = 1.0;
  q.step(*ops_, 1);
  EXPECT_NEAR(q.m.get(0), -.1, 1e-16) << "-1.5 is clamped";
  EXPECT_NEAR(q.m.get(1), .025, 1e-16) << ".25 is not";
}

TEST_F(ReferenceUpdate, ABf16MomentIsUsedUnroundedStoredRoundedAndDecaysInBf16) {
  TwoParameters p;
  p.gradient = OwnedTensor(Dtype::f64, {2}, {1, 1});
  p.learning_rate = 0.5;
  p.bf16_moment = true;
  p.step(*ops_, 1);
  EXPECT_NEAR(p.parameter.get(0), .1 - .5 / (1 + 1e-8), 1e-15) << ".1 enters, not bf16(.1) = 205 / 2048";
  EXPECT_EQ(p.m.get(0), 205.0 / 2048);
  p.gradient = OwnedTensor(Dtype::f64, {2}, {0, 0});
  p.step(*ops_, 2);
  EXPECT_EQ(p.m.get(0), 184.0 / 2048) << "bf16(.9) = .8984375 times 205 / 2048, rounded";
}

TEST_F(ReferenceUpdate, FindsTheMinimumOfTheMcCormickFunction) {
  // sin(x + y) + (x - y)^2 - 1.5 x + 2.5 y + 1 from (0, 0): (-.54719, -1.54719) after 200 steps of .1, clamped to 1
  TwoParameters p;
  p.parameter = OwnedTensor(Dtype::f64, {2}, {0, 0});
  p.learning_rate = 0.1;
  p.clip_absolute = 1.0;
  for (std::int64_t t = 1; t <= 200; ++t) {
    const double x = p.parameter.get(0), y = p.parameter.get(1);
    p.gradient.set(0, std::cos(x + y) + 2 * (x - y) - 1.5);
    p.gradient.set(1, std::cos(x + y) - 2 * (x - y) + 2.5);
    p.step(*ops_, t);
  }
  EXPECT_NEAR(p.parameter.get(0), -.54719, 1e-4 * .54719);
  EXPECT_NEAR(p.parameter.get(1), -1.54719, 1e-4 * 1.54719);
}

// --- SGD -------------------------------------------------------------------------------------------------------------

// The same two parameters, with a trace.
struct TwoWithTrace : TwoParameters {
  OwnedTensor trace{Dtype::f64, {2}, {0, 0}};
  double momentum = 0.5;
  bool bf16_trace = false;

  void step(Ops& ops) {
    ops.sgd_step({.gradient = gradient,
                  .block_begin = begin,
                  .decay = decay,
                  .multiplier = multiplier,
                  .frozen = frozen,
                  .gradient_scale = gradient_scale,
                  .halt = halt,
                  .clip_absolute = clip_absolute,
                  .learning_rate = learning_rate,
                  .momentum = momentum,
                  .bf16_trace = bf16_trace,
                  .parameter = parameter,
                  .trace = trace});
  }
};

TEST_F(ReferenceUpdate, SgdFollowsItsTraceWithoutDampening) {
  TwoWithTrace p;
  p.gradient = OwnedTensor(Dtype::f64, {2}, {1, 2});
  p.parameter = OwnedTensor(Dtype::f64, {2}, {10, 20});
  p.step(*ops_);
  EXPECT_EQ(p.parameter.values(), (std::vector<double>{9, 18}));
  p.step(*ops_);  // traces 1.5 and 3
  EXPECT_EQ(p.trace.values(), (std::vector<double>{1.5, 3}));
  EXPECT_EQ(p.parameter.values(), (std::vector<double>{7.5, 15}));
}

TEST_F(ReferenceUpdate, SgdWithoutATraceFollowsTheGradient) {
  TwoWithTrace p;
  p.trace = OwnedTensor();
  p.decay = OwnedTensor(Dtype::f64, {2}, {.1, .3});
  p.multiplier = OwnedTensor(Dtype::f64, {2}, {1, 3});
  p.gradient_scale = OwnedTensor(Dtype::f64, {1}, {.5});
  p.clip_absolute = .25;
  p.step(*ops_);
  EXPECT_NEAR(p.parameter.get(0), .1 - (.05 + .1 * .1), 1e-16);
  EXPECT_NEAR(p.parameter.get(1), .2 - (.25 + .3 * .2), 1e-16) << ".3 is clamped";
}

TEST_F(ReferenceUpdate, SgdLeavesAFrozenBlockAndMovesItsTrace) {
  TwoWithTrace p;
  p.frozen = OwnedTensor(Dtype::u8, {2}, {0, 1});
  p.step(*ops_);
  EXPECT_NE(p.parameter.get(0), .1);
  EXPECT_EQ(p.parameter.get(1), .2);
  EXPECT_EQ(p.trace.values(), (std::vector<double>{.1, .2}));
}

TEST_F(ReferenceUpdate, ABf16TraceIsUsedUnroundedStoredRoundedAndDecaysInBf16) {
  TwoWithTrace p;
  p.parameter = OwnedTensor(Dtype::f64, {2}, {0, 0});
  p.momentum = 0.9;
  p.bf16_trace = true;
  p.step(*ops_);
  EXPECT_EQ(p.parameter.get(0), -.1) << "not bf16(.1) = 205 / 2048";
  EXPECT_EQ(p.trace.get(0), 205.0 / 2048);
  p.gradient = OwnedTensor(Dtype::f64, {2}, {0, 0});
  p.step(*ops_);
  EXPECT_EQ(p.trace.get(0), 184.0 / 2048) << "bf16(.9) = .8984375 times 205 / 2048, rounded";
}

}  // namespace
}  // namespace vitrail::testing
