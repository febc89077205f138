#include <cmath>

#include <gtest/gtest.h>

#include "tests/ops/random_tensors.hpp"
#include "train/metrics.hpp"
#include "train/presets.hpp"

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
  Activations acts;
  acts.shape.labels = 2;
  acts.loss = loss;
  acts.predicted = predicted;
  acts.labels = labels;
  const ModelConfig dense;
  MetricsCollector collector(dense);
  collector.add_pass(acts, 4);
  const Metrics metrics = collector.finish(*make_self_communicator());
  EXPECT_EQ(metrics.images, 4);
  EXPECT_EQ(metrics.correct, 2);
  EXPECT_EQ(metrics.accuracy(), 0.5);
  EXPECT_EQ(metrics.main_loss, 2.5);
}

TEST(GlobalNorm, IsTheRootOfAllBlockSums) {
  RunConfig config = preset("fmnist");
  resolve(config);
  const auto device = make_cpu_device();
  const auto ops = make_cpu_ops(1);
  const auto world = make_self_communicator();
  TrainState state(config, *device, *ops, *world);
  double sum = 0;
  for (const Tensor& tensor : state.parameters) {
    for (std::int64_t i = 0; i < tensor.elements(); ++i) {
      sum += static_cast<double>(tensor.as<float>()[i]) * static_cast<double>(tensor.as<float>()[i]);
    }
  }
  const GlobalNorm norm(state);
  const double found = norm(*world, state.dense->optimizer.square_sums(*ops, state.dense->values),
                            state.expert->optimizer.square_sums(*ops, state.expert->values));
  EXPECT_NEAR(found, std::sqrt(sum), 1e-9 * found);
  EXPECT_GT(found, 1);
}

}  // namespace
}  // namespace vitrail
