#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>
#include <numeric>

#include <gtest/gtest.h>

#include "device/host_values.hpp"
#include "ops/ops.hpp"
#include "tests/ops/random_tensors.hpp"
#include "train/mixup.hpp"

namespace vitrail {
namespace {

using testing::OwnedTensor;
using Values = std::vector<double>;

/// Weights of `leaves` leaves of 4 images, 3 mixed into one.
Values drawn(MixupDraw draw, std::int64_t first_leaf, std::int64_t leaves, std::uint64_t seed = 5,
             std::uint64_t step = 9) {
  OwnedTensor weights(Dtype::f64, {leaves, 4, 3});
  draw_mixup({.concentration = 0.5, .draw = draw, .images = 3}, seed, step, first_leaf, weights);
  return weights.values();
}

/// Entries first .. first + count - 1.
Values part(const Values& all, std::int64_t first, std::int64_t count) {
  return {all.begin() + first, all.begin() + first + count};
}

TEST(Mixup, MixesAnImageWithTheNextOneOfItsLeaf) {
  const auto ops = make_reference_ops();
  OwnedTensor weights(Dtype::f64, {1, 6, 2});
  set_mixup_weights({0.4, 0.6}, weights);
  const OwnedTensor x(Dtype::f64, {1, 6, 1}, {1, 2, 3, 4, 5, 6});
  OwnedTensor y(Dtype::f64, {1, 6, 1});
  ops->mix_images({.x = x, .weights = weights, .y = y});
  const Values expected{1.4, 2.4, 3.4, 4.4, 5.4, 4};
  for (std::int64_t i = 0; i < 6; ++i) EXPECT_NEAR(y.get(i), expected[static_cast<std::size_t>(i)], 1e-14);
}

TEST(Mixup, SortsEveryDrawDescendingAndGivesItToARunOfImages) {
  OwnedTensor weights(Dtype::f32, {2, 2, 2});
  set_mixup_weights({0.25, 0.75}, weights);
  EXPECT_EQ(weights.values(), (Values{.75, .25, .75, .25, .75, .25, .75, .25}));
  set_mixup_weights({0.25, 0.75, 1, 0}, weights);
  EXPECT_EQ(weights.values(), (Values{.75, .25, .75, .25, 1, 0, 1, 0}));
  set_mixup_weights({0.25, 0.75, 1, 0, 0.5, 0.5, 0.125, 0.875}, weights);
  EXPECT_EQ(weights.values(), (Values{.75, .25, 1, 0, .5, .5, .875, .125}));
}

TEST(Mixup, DrawsWhatTheFormulaSays) {
  // By a second program, in another language, from the text beside the formula.
  const auto expect = [](const Values& weights, const Values& expected) {
    ASSERT_EQ(weights.size(), expected.size());
    for (std::size_t j = 0; j < weights.size(); ++j) EXPECT_NEAR(weights[j], expected[j], 1e-13);
  };
  expect(dirichlet(0.2, 2, 1, 0, 0), {0.0024144769983902212, 0.9975855230016097});
  expect(dirichlet(0.5, 3, 7, 3, 11), {0.4939307415683845, 0.28478886323445685, 0.22128039519715859});
  expect(dirichlet(2, 2, (std::uint64_t{1} << 40) | 5, 2, 1), {0.5941328423268811, 0.4058671576731188});
  expect(dirichlet(1, 2, 3, 0, 28), {0.9581736787129024, 0.041826321287097595});  // an attempt was refused
}

TEST(Mixup, DrawsHaveTheMomentsOfTheDirichletDistribution) {
  constexpr std::int64_t kDraws = 20'000;
  for (const double c : {0.2, 0.8, 1.0, 3.5}) {
    for (const std::int64_t m : {2, 3}) {
      double mean = 0, square = 0, product = 0, fourth = 0;
      for (std::int64_t i = 0; i < kDraws; ++i) {
        const Values w = dirichlet(c, m, 11, 0, i);
        EXPECT_NEAR(std::accumulate(w.begin(), w.end(), 0.0), 1, 1e-14);
        mean += w[0] / kDraws;
        square += w[0] * w[0] / kDraws;
        fourth += w[0] * w[0] * w[0] * w[0] / kDraws;
        product += w[0] * w[1] / kDraws;
      }
      // E w^k = c (c+1) .. / (mc (mc+1) ..);  E w0 w1 = c c / (mc (mc+1)). The standard error of the mean of a number
      // in 0 .. 1 is at most its root mean square over sqrt(draws).
      const double all = static_cast<double>(m) * c;
      const double second = c * (c + 1) / (all * (all + 1));
      const auto error = [](double mean_square) { return 4 * std::sqrt(mean_square / kDraws); };
      EXPECT_NEAR(mean, 1 / static_cast<double>(m), error(second)) << c << " " << m;
      EXPECT_NEAR(square, second, error(second)) << c << " " << m;
      EXPECT_NEAR(fourth, second * (c + 2) * (c + 3) / ((all + 2) * (all + 3)), error(second)) << c << " " << m;
      EXPECT_NEAR(product, c * c / (all * (all + 1)), error(1.0 / 16)) << c << " " << m;
    }
  }
}

TEST(Mixup, DrawsOfTwoHaveTheBetaDistribution) {
  constexpr std::int64_t kDraws = 10'000;
  const auto largest_gap = [](double c, const auto& distribution) {
    Values w;
    for (std::int64_t i = 0; i < kDraws; ++i) w.push_back(dirichlet(c, 2, 13, 1, i)[0]);
    std::sort(w.begin(), w.end());
    double gap = 0;
    for (std::size_t i = 0; i < w.size(); ++i) {
      gap = std::max(gap, std::abs(distribution(w[i]) - (static_cast<double>(i) + 0.5) / kDraws));
    }
    return gap;
  };
  const double allowed = 1.95 / std::sqrt(kDraws);  // Kolmogorov: exceeded once in a thousand
  EXPECT_LT(largest_gap(0.5, [](double x) { return 2 / std::numbers::pi * std::asin(std::sqrt(x)); }), allowed);
  EXPECT_LT(largest_gap(1, [](double x) { return x; }), allowed);
  EXPECT_LT(largest_gap(2, [](double x) { return x * x * (3 - 2 * x); }), allowed);
}

TEST(Mixup, TinyConcentrationsLeaveOneImageAndNoNaN) {
  for (const double c : {1e-4, 1e-10, 1e-300, std::numeric_limits<double>::denorm_min()}) {
    int first = 0, even = 0;
    for (std::int64_t i = 0; i < 400; ++i) {
      const Values w = dirichlet(c, 2, 3, 0, i);
      ASSERT_TRUE(w[0] >= 0 && w[1] >= 0 && w[0] + w[1] == 1) << c << ": " << w[0] << " and " << w[1];
      if (w[0] > 0.5) ++first;
      if (std::max(w[0], w[1]) < 0.999) ++even;
    }
    EXPECT_NEAR(first, 200, 40) << c;
    EXPECT_LE(even, 4) << c;
  }
}

TEST(Mixup, HugeConcentrationsMixInEqualParts) {
  for (const double c : {1e12, std::numeric_limits<double>::max()}) {
    for (const double w : dirichlet(c, 4, 3, 0, 0)) EXPECT_NEAR(w, 0.25, 1e-5) << c;
  }
}

TEST(Mixup, WeightsDoNotDependOnHowLeavesAreCutOverRanks) {
  for (const MixupDraw draw : {MixupDraw::step, MixupDraw::leaf, MixupDraw::image}) {
    const Values all = drawn(draw, 0, 8);
    for (const std::int64_t leaves : {1, 2, 4}) {
      for (std::int64_t first = 0; first < 8; first += leaves) {
        EXPECT_EQ(drawn(draw, first, leaves), part(all, first * 12, leaves * 12));
      }
    }
  }
}

TEST(Mixup, OneDrawServesAStepALeafOrAnImage) {
  const auto differing = [](const Values& all) {
    std::vector<Values> rows;
    for (std::int64_t i = 0; i < std::ssize(all); i += 3) rows.push_back(part(all, i, 3));
    std::sort(rows.begin(), rows.end());
    return std::unique(rows.begin(), rows.end()) - rows.begin();
  };
  EXPECT_EQ(differing(drawn(MixupDraw::step, 0, 8)), 1);
  EXPECT_EQ(differing(drawn(MixupDraw::leaf, 0, 8)), 8);
  EXPECT_EQ(differing(drawn(MixupDraw::leaf, 3, 1)), 1);
  EXPECT_EQ(differing(drawn(MixupDraw::image, 0, 8)), 32);
}

TEST(Mixup, AnotherSeedOrStepIsAnotherDraw) {
  const Values one = drawn(MixupDraw::leaf, 2, 1);
  EXPECT_EQ(drawn(MixupDraw::leaf, 2, 1), one);
  EXPECT_NE(drawn(MixupDraw::leaf, 2, 1, 6), one);
  EXPECT_NE(drawn(MixupDraw::leaf, 2, 1, 5, 10), one);
}

}  // namespace
}  // namespace vitrail
