#include <algorithm>
#include <cmath>
#include <limits>

#include <gtest/gtest.h>

#include "base/philox.hpp"
#include "train/fewshot.hpp"

namespace vitrail {
namespace {

/// Normal features around a centre of each class; classes in turn.
FeatureSet random_set(std::int64_t images, std::int64_t width, std::int64_t classes, std::uint64_t seed) {
  FeatureSet set;
  set.width = width;
  set.classes = classes;
  const Philox noise(seed, Purpose::test, 0);
  const Philox centre(1, Purpose::test, 1);
  for (std::int64_t i = 0; i < images; ++i) {
    const std::int64_t label = i % classes;
    set.labels.push_back(static_cast<std::int32_t>(label));
    for (std::int64_t j = 0; j < width; ++j) {
      set.features.push_back(static_cast<float>(centre.normal(static_cast<std::uint64_t>(label * width + j)) +
                                                noise.normal(static_cast<std::uint64_t>(i * width + j))));
    }
  }
  return set;
}

std::vector<std::int64_t> all_rows(const FeatureSet& set) {
  std::vector<std::int64_t> rows;
  for (std::int64_t i = 0; i < set.images(); ++i) rows.push_back(i);
  return rows;
}

/// Largest entry of X^T (X W - Y) + l2 W, which is zero where W is the minimum.
double gradient_at(const RidgeClassifier& classifier, const FeatureSet& set, double l2) {
  const std::vector<double> mean = classifier.mean();
  const std::vector<double> deviation = classifier.deviation();
  const std::vector<double> w = classifier.weights(l2);
  const auto d = static_cast<std::size_t>(set.width);
  const auto v = static_cast<std::size_t>(set.classes);
  std::vector<double> gradient(w.size());
  for (std::size_t i = 0; i < w.size(); ++i) gradient[i] = l2 * w[i];
  for (std::size_t image = 0; image < set.labels.size(); ++image) {
    std::vector<double> x(d + 1, 100);
    for (std::size_t j = 0; j < d; ++j) {
      x[j] = (static_cast<double>(set.features[image * d + j]) - mean[j]) / deviation[j];
    }
    for (std::size_t k = 0; k < v; ++k) {
      double error = static_cast<std::size_t>(set.labels[image]) == k ? -1 : 1;
      for (std::size_t j = 0; j <= d; ++j) error += x[j] * w[j * v + k];
      for (std::size_t j = 0; j <= d; ++j) gradient[j * v + k] += x[j] * error;
    }
  }
  double largest = 0;
  for (const double g : gradient) largest = std::max(largest, std::abs(g));
  return largest;
}

// [V-MoE tests]
TEST(RidgeClassifier, HasTheOriginalsWorkedNumbers) {
  const FeatureSet train{{-1, -2, 1e9F, 2, 1, 1e9F}, {0, 0, 0, 1, 1, 1}, 1, 2};
  const FeatureSet test{{-1, -2}, {0, 1}, 1, 2};
  const std::vector<std::int64_t> rows = {0, 1, 3, 4};
  const RidgeClassifier classifier(train, rows);
  EXPECT_EQ(classifier.mean(), std::vector<double>{0});
  EXPECT_NEAR(classifier.deviation()[0], std::sqrt(2.5) + 1e-5, 1e-15);
  EXPECT_NEAR(-1 / classifier.deviation()[0], -.63245153, 5e-9);
  const std::vector<double> weights = classifier.weights(0);
  EXPECT_NEAR(weights[0], -.9486893, 5e-8);
  EXPECT_NEAR(weights[1], .9486893, 5e-8);
  const std::vector<double> none = {0};
  EXPECT_EQ(classifier.score(test, 0, 2, none).front().correct, 1);
}

TEST(RidgeClassifier, IsTheMinimumWithMoreImagesThanFeatures) {
  const FeatureSet set = random_set(60, 7, 3, 1);
  const RidgeClassifier classifier(set, all_rows(set));
  for (const double l2 : few_shot_l2()) EXPECT_LT(gradient_at(classifier, set, l2), 1e-7) << l2;
}

TEST(RidgeClassifier, IsTheMinimumWithFewerImagesThanFeatures) {
  const FeatureSet set = random_set(9, 20, 3, 1);
  const RidgeClassifier classifier(set, all_rows(set));
  for (const double l2 : few_shot_l2()) EXPECT_LT(gradient_at(classifier, set, l2), 1e-7) << l2;
}

TEST(RidgeClassifier, BothWaysToSolveAreRightWhereTheyMeet) {
  // As many images as columns are solved one way, one fewer the other way.
  FeatureSet set = random_set(8, 7, 2, 1);
  const RidgeClassifier tall(set, all_rows(set));
  EXPECT_LT(gradient_at(tall, set, 1), 1e-7);
  set.features.resize(7 * 7);
  set.labels.resize(7);
  EXPECT_LT(gradient_at(RidgeClassifier(set, all_rows(set)), set, 1), 1e-7);
}

TEST(RidgeClassifier, ConstantFeaturesDoNoHarm) {
  FeatureSet set = random_set(30, 4, 2, 1);
  for (std::size_t i = 0; i < 30; ++i) set.features[i * 4 + 1] = 3;
  const RidgeClassifier classifier(set, all_rows(set));
  EXPECT_EQ(classifier.deviation()[1], 1e-5);
  EXPECT_LT(gradient_at(classifier, set, 1), 1e-7);
}

TEST(RidgeClassifier, ScoresAreThoseOfItsWeights) {
  const FeatureSet train = random_set(40, 6, 4, 1);
  const FeatureSet test = random_set(50, 6, 4, 2);
  const RidgeClassifier classifier(train, all_rows(train));
  const std::vector<double> l2 = {0.5, 1e4};
  const auto scores = classifier.score(test, 10, 30, l2);
  for (std::size_t which = 0; which < l2.size(); ++which) {
    const std::vector<double> w = classifier.weights(l2[which]);
    std::int64_t correct = 0;
    double margin = std::numeric_limits<double>::infinity();
    for (std::size_t i = 10; i < 40; ++i) {
      std::vector<double> by_class(4);
      for (std::size_t k = 0; k < 4; ++k) {
        by_class[k] = 100 * w[6 * 4 + k];
        for (std::size_t j = 0; j < 6; ++j) {
          by_class[k] += (static_cast<double>(test.features[i * 6 + j]) - classifier.mean()[j]) /
                         classifier.deviation()[j] * w[j * 4 + k];
        }
      }
      const auto best = std::max_element(by_class.begin(), by_class.end());
      correct += best - by_class.begin() == test.labels[i] ? 1 : 0;
      const double highest = *best;
      *best = -1e9;
      margin = std::min(margin, highest - *std::max_element(by_class.begin(), by_class.end()));
    }
    EXPECT_EQ(scores[which].correct, correct);
    EXPECT_NEAR(scores[which].smallest_margin, margin, 1e-12);
    EXPECT_GT(correct, 15);  // chance is 7.5
  }
}

TEST(RidgeClassifier, OfEqualScoresTheFirstClassWins) {
  // Two images that are alike, of two classes: all weights are 0.
  const FeatureSet train{{3, 3}, {0, 1}, 1, 2};
  const RidgeClassifier classifier(train, all_rows(train));
  const std::vector<double> l2 = {1};
  const FewShotScore score = classifier.score({{5, 1, 2}, {0, 0, 1}, 1, 2}, 0, 3, l2).front();
  EXPECT_EQ(score.correct, 2);
  EXPECT_EQ(score.smallest_margin, 0);
}

TEST(RidgeClassifier, RefusesWhatCannotBeFitted) {
  FeatureSet set = random_set(8, 3, 2, 1);
  EXPECT_THROW(RidgeClassifier(set, {}), Error);
  const RidgeClassifier classifier(set, all_rows(set));
  const std::vector<double> l2 = {1};
  EXPECT_THROW((void)classifier.score(random_set(8, 4, 2, 1), 0, 8, l2), Error);
  EXPECT_THROW((void)classifier.score(random_set(8, 3, 3, 1), 0, 8, l2), Error);
  set.features[4] = std::numeric_limits<float>::quiet_NaN();
  try {
    const RidgeClassifier broken(set, all_rows(set));
    FAIL() << "NaN was fitted";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::numbers);
  }
}

TEST(FewShot, TheRegularisationsAreThoseOfTheOriginal) {
  const std::vector<double> l2 = few_shot_l2();
  ASSERT_EQ(l2.size(), 30U);
  EXPECT_EQ(l2.front(), 0x1p-10);
  EXPECT_EQ(l2[10], 1);
  EXPECT_EQ(l2.back(), 0x1p19);
}

TEST(FewShot, EveryClassIsPermutedByItself) {
  const FeatureSet set = random_set(100, 1, 3, 1);
  const ClassOrders orders = draw_class_orders(set.labels, 3, 5);
  ASSERT_EQ(orders.size(), 3U);
  for (std::size_t c = 0; c < 3; ++c) {
    std::vector<std::int64_t> sorted = orders[c];
    std::sort(sorted.begin(), sorted.end());
    EXPECT_NE(sorted, orders[c]);
    ASSERT_EQ(sorted.size(), c == 0 ? 34U : 33U);
    for (std::size_t i = 0; i < sorted.size(); ++i) EXPECT_EQ(sorted[i], static_cast<std::int64_t>(3 * i + c));
  }
  EXPECT_EQ(orders, draw_class_orders(set.labels, 3, 5));
  EXPECT_NE(orders, draw_class_orders(set.labels, 3, 6));
}

TEST(FewShot, MoreImagesDoNotChangeTheOrderOfTheOthers) {
  const FeatureSet many = random_set(100, 1, 2, 1);
  const ClassOrders all = draw_class_orders(many.labels, 2, 5);
  const ClassOrders some = draw_class_orders(std::span(many.labels).first(40), 2, 5);
  for (std::size_t c = 0; c < 2; ++c) {
    std::vector<std::int64_t> kept;
    for (const std::int64_t image : all[c]) {
      if (image < 40) kept.push_back(image);
    }
    EXPECT_EQ(kept, some[c]);
  }
}

TEST(FewShot, ALabelOutsideTheClassesIsRefused) {
  const std::vector<std::int32_t> high = {0, 3};
  const std::vector<std::int32_t> negative = {0, -1};
  EXPECT_THROW((void)draw_class_orders(high, 3, 0), Error);
  EXPECT_THROW((void)draw_class_orders(negative, 3, 0), Error);
}

TEST(FewShot, ShotsAreNestedAndEndWithTheClass) {
  const ClassOrders orders = {{4, 0, 7}, {5}, {}, {2, 9, 1, 3}};
  EXPECT_EQ(few_shot_rows(orders, 1), (std::vector<std::int64_t>{4, 5, 2}));
  EXPECT_EQ(few_shot_rows(orders, 3), (std::vector<std::int64_t>{4, 0, 7, 5, 2, 9, 1}));
}

TEST(FewShot, TheRegularisationOfTheLargestMeanRankIsChosen) {
  // Ranks 0 1 2 and 1 2 0: sums 1 3 2. The accuracies themselves would have chosen the last.
  EXPECT_EQ(choose_l2({{.1, .2, .9}, {.5, .51, .4}}), 1U);
  // Ranks 0 1 2 and 2 1 0: all equal, the first.
  EXPECT_EQ(choose_l2({{.1, .2, .3}, {.3, .2, .1}}), 0U);
  // Equal accuracies rank in their order: 0 1 2.
  EXPECT_EQ(choose_l2({{.5, .5, .5}}), 2U);
  EXPECT_THROW((void)choose_l2({}), Error);
}

TEST(FewShot, PiecesOfTestImagesAddUp) {
  const FeatureSet train = random_set(40, 6, 4, 1);
  const FeatureSet test = random_set(700, 6, 4, 2);
  const RidgeClassifier classifier(train, all_rows(train));
  const std::vector<double> l2 = {0.5, 64};
  const auto self = make_self_communicator();
  const auto pieces = score_on_ranks(classifier, test, l2, *self);
  const auto whole = classifier.score(test, 0, 700, l2);
  for (std::size_t i = 0; i < l2.size(); ++i) {
    EXPECT_EQ(pieces[i].correct, whole[i].correct);
    EXPECT_NEAR(pieces[i].smallest_margin, whole[i].smallest_margin, 1e-12);
  }
}

}  // namespace
}  // namespace vitrail
