#include <gtest/gtest.h>

#include "tests/ops/random_tensors.hpp"
#include "train/metrics.hpp"

namespace vitrail {
namespace {

TEST(MoeMetrics, DropRateAndImbalanceOfKnownCounts) {
  MoeMetrics moe;
  moe.assigned = {30, 10, 20, 20};
  moe.kept = {24, 10, 20, 10};
  EXPECT_DOUBLE_EQ(moe.drop_rate(), 0.2);
  EXPECT_DOUBLE_EQ(moe.load_imbalance(), 1.5);
  EXPECT_EQ(MoeMetrics().drop_rate(), 0);
}

TEST(MoeMetrics, TokensThatAnExpertWorksOn) {
  MoeMetrics moe;
  EXPECT_EQ(moe.processed_rate(), 0);
  moe.tokens = 40;
  moe.processed = 30;
  EXPECT_DOUBLE_EQ(moe.processed_rate(), 0.75);
  Metrics metrics;
  metrics.moe = {moe, moe};
  metrics.moe[1].processed = 10;
  EXPECT_DOUBLE_EQ(metrics.processed_rate(), 0.5);
}

TEST(Metrics, AuxiliaryLossIsTheWeightedSumOverBlocks) {
  Metrics metrics;
  metrics.main_loss = 2;
  metrics.auxiliary_loss = 0.5;
  EXPECT_EQ(metrics.total_loss(), 2.5);
  EXPECT_EQ(metrics.accuracy(), 0);
}

TEST(MetricsCollector, ARightPredictionIsAnyLabelOfTheImage) {
  using testing::OwnedTensor;
  OwnedTensor loss(Dtype::f64, {5}, {1, 2, 3, 4, 100});
  OwnedTensor predicted(Dtype::i32, {5}, {7, 2, 0, 4, 6});
  // The first, the second, none, another; padding.
  OwnedTensor labels(Dtype::i32, {5, 2}, {7, 3, 1, 2, -1, -1, 3, 5, 6, -1});
  const ModelConfig dense;
  MetricsCollector collector(dense);
  collector.add_pass({.labels = labels, .loss = loss, .predicted = predicted, .moe = {}}, 4);
  const Metrics metrics = collector.finish(*make_self_communicator());
  EXPECT_EQ(metrics.images, 4);
  EXPECT_EQ(metrics.correct, 2);
  EXPECT_EQ(metrics.accuracy(), 0.5);
  EXPECT_EQ(metrics.main_loss, 2.5);
}

}  // namespace
}  // namespace vitrail
