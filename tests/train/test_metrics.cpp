#include <cmath>

#include <gtest/gtest.h>

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
  const double found = norm(*world, state.dense->adamw.square_sums(*ops, state.dense->values),
                            state.expert->adamw.square_sums(*ops, state.expert->values));
  EXPECT_NEAR(found, std::sqrt(sum), 1e-9 * found);
  EXPECT_GT(found, 1);
}

}  // namespace
}  // namespace vitrail
