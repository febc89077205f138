#include <gtest/gtest.h>

#include "base/philox.hpp"
#include "tests/ranks_main.hpp"
#include "train/fewshot.hpp"

namespace vitrail {
namespace {

using test::world;

FeatureSet random_set(std::int64_t images, std::uint64_t seed) {
  FeatureSet set;
  set.width = 5;
  set.classes = 3;
  const Philox random(seed, Purpose::test, 0);
  for (std::int64_t i = 0; i < images; ++i) {
    set.labels.push_back(static_cast<std::int32_t>(i % 3));
    for (std::int64_t j = 0; j < 5; ++j) {
      const double shift = j == i % 3 ? 1 : 0;
      set.features.push_back(static_cast<float>(shift + random.normal(static_cast<std::uint64_t>(i * 5 + j))));
    }
  }
  return set;
}

TEST(FewShotOnRanks, EveryRankKnowsTheScoresOfAllImagesToTheBit) {
  const FeatureSet train = random_set(30, 1);
  const FeatureSet few = random_set(10, 2);  // a single piece: most ranks have none
  const FeatureSet many = random_set(1000, 3);
  const std::vector<std::int64_t> rows = few_shot_rows(draw_class_orders(train.labels, 3, 0), 5);
  const RidgeClassifier classifier(train, rows);
  const std::vector<double> l2 = few_shot_l2();
  const auto self = make_self_communicator();
  for (const FeatureSet* test : {&few, &many}) {
    const auto shared = score_on_ranks(classifier, *test, l2, world());
    const auto alone = score_on_ranks(classifier, *test, l2, *self);
    for (std::size_t i = 0; i < l2.size(); ++i) {
      EXPECT_EQ(shared[i].correct, alone[i].correct);
      EXPECT_EQ(shared[i].smallest_margin, alone[i].smallest_margin);
    }
  }
}

}  // namespace
}  // namespace vitrail
