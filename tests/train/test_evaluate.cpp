#include <cstring>

#include <gtest/gtest.h>

#include "base/philox.hpp"
#include "train/evaluate.hpp"
#include "train/presets.hpp"

namespace vitrail {
namespace {

RunConfig small() {
  RunConfig config = preset("fmnist");
  config.model.width = 16;
  config.model.mlp_width = 32;
  config.model.heads = 2;
  config.model.experts = 4;
  config.model.router.capacity.factor = 0.8;
  config.batch = config.leaf_images = 8;
  resolve(config);
  return config;
}

/// Of one label: the image's number mod 10. Of ten: all classes, and none for every third image.
std::int32_t label_of(std::int64_t image, std::int64_t label, std::int64_t labels) {
  if (labels == 1) return static_cast<std::int32_t>(image % 10);
  return image % 3 == 0 ? -1 : static_cast<std::int32_t>(label);
}

void fill(std::int64_t first, std::int64_t count, Tensor raw_images, Tensor labels) {
  const std::int64_t each = raw_images.elements() / raw_images.shape[0];
  const std::int64_t per_image = labels.shape[1];
  const Philox random(3, Purpose::test, 0);
  for (std::int64_t i = 0; i < count; ++i) {
    for (std::int64_t l = 0; l < per_image; ++l) {
      labels.as<std::int32_t>()[i * per_image + l] = label_of(first + i, l, per_image);
    }
    for (std::int64_t j = 0; j < each; ++j) {
      raw_images.as<std::uint8_t>()[i * each + j] =
          static_cast<std::uint8_t>(random.bits(static_cast<std::uint64_t>((first + i) * each + j)));
    }
  }
}

class Evaluation : public ::testing::Test {
 protected:
  Evaluation() : state_(config_, *device_, *ops_, *world_) {
    // The head starts at 0 and would make all images alike.
    const Tensor head = state_.params.head.w;
    for (std::int64_t i = 0; i < head.elements(); ++i) {
      head.as<float>()[i] = static_cast<float>(Philox(1, Purpose::test, 0).normal(static_cast<std::uint64_t>(i)));
    }
  }
  Metrics run(const ModelConfig& model, std::int64_t leaves, std::int64_t images, std::int64_t labels = 1) {
    Layout layout = state_.layout;
    layout.leaves_per_pass = leaves;
    Evaluator evaluator(model, layout, *device_, *ops_, labels);
    return evaluator.run(state_.params, state_.ranks, Loss::softmax, images, fill);
  }

  RunConfig config_ = small();
  std::unique_ptr<Device> device_ = make_cpu_device();
  std::unique_ptr<Ops> ops_ = make_cpu_ops(1);
  std::unique_ptr<Communicator> world_ = make_self_communicator();
  TrainState state_;
};

TEST_F(Evaluation, CountsEveryImageOnceAndNoPadding) {
  for (const std::int64_t images : {1, 7, 8, 9, 21}) EXPECT_EQ(run(config_.model, 1, images).images, images);
}

TEST_F(Evaluation, AnyLabelOfAnImageIsRightAndImagesWithoutLabelsAreNot) {
  for (const std::int64_t leaves : {1, 4}) {
    const Metrics metrics = run(config_.model, leaves, 21, 10);
    EXPECT_EQ(metrics.images, 21);
    EXPECT_EQ(metrics.correct, 14);
  }
}

TEST_F(Evaluation, PaddingTakesNoSlots) {
  // 8 images and 13 that are half padding: the first group must come out alike, and no padding token is assigned.
  const Metrics full = run(config_.model, 1, 8);
  const Metrics padded = run(config_.model, 1, 5);
  const auto tokens = [](const Metrics& metrics) {
    std::int64_t sum = 0;
    for (const std::int64_t count : metrics.moe.front().assigned) sum += count;
    return sum;
  };
  EXPECT_EQ(tokens(full), 8 * config_.model.tokens() * config_.model.router.selected);
  EXPECT_EQ(tokens(padded), 5 * config_.model.tokens() * config_.model.router.selected);
  EXPECT_GT(full.drop_rate(), 0);
}

TEST_F(Evaluation, CountsTheTokensThatAnExpertWorksOn) {
  ModelConfig model = config_.model;
  const std::int64_t tokens = 13 * model.tokens();
  model.router.capacity.factor = 4;
  EXPECT_EQ(run(model, 1, 13).moe.front().processed, tokens);
  EXPECT_EQ(run(model, 1, 13).processed_rate(), 1);
  model.router.selected = 1;
  model.router.capacity.factor = 0.3;
  const MoeMetrics scarce = run(model, 1, 13).moe.front();
  std::int64_t kept = 0;
  for (const std::int64_t count : scarce.kept) kept += count;
  EXPECT_EQ(scarce.processed, kept);  // one choice a token
  EXPECT_EQ(scarce.tokens, tokens);
  EXPECT_LT(scarce.processed_rate(), 0.5);
}

TEST_F(Evaluation, EverySparseBlockHasItsOwnNumbers) {
  RunConfig config = small();
  config.model.blocks = 6;
  resolve(config);
  const TrainState state(config, *device_, *ops_, *world_);
  Evaluator evaluator(config.model, state.layout, *device_, *ops_);
  Evaluator keeping(config.model, state.layout, *device_, *ops_, 1, true);
  const Metrics metrics = evaluator.run(state.params, state.ranks, Loss::softmax, 8, fill);
  const auto after = [&](std::int64_t, const Activations& acts) {
    for (const MoeMetrics& block : metrics.moe) {  // counted again, from the choices of each block
      const MoeActivations& moe = acts.blocks[static_cast<std::size_t>(block.block)].moe;
      std::vector<std::int64_t> assigned(block.assigned.size());
      for (std::int64_t i = 0; i < moe.selected.elements(); ++i)
        ++assigned[static_cast<std::size_t>(moe.selected.as<std::int32_t>()[i])];
      EXPECT_EQ(assigned, block.assigned) << block.block;
    }
  };
  const Metrics again = keeping.run(state.params, state.ranks, Loss::softmax, 8, fill, after);
  ASSERT_EQ(metrics.moe.size(), 3U);
  EXPECT_NE(metrics.moe[0].assigned, metrics.moe[1].assigned);
  EXPECT_NE(metrics.moe[1].importance_loss, metrics.moe[2].importance_loss);
  EXPECT_EQ(metrics.auxiliary_loss, again.auxiliary_loss);
}

TEST_F(Evaluation, LeavesPerPassChangeNoBit) {
  const Metrics one = run(config_.model, 1, 21);
  const Metrics four = run(config_.model, 4, 21);
  EXPECT_EQ(one.main_loss, four.main_loss);
  EXPECT_EQ(one.correct, four.correct);
  EXPECT_EQ(one.moe.front().kept, four.moe.front().kept);
}

TEST_F(Evaluation, CapacityAndOrderMayDifferFromTraining) {
  ModelConfig model = config_.model;
  model.router.capacity.factor = 4;
  EXPECT_EQ(run(model, 1, 8).drop_rate(), 0);
  model.router.capacity.factor = 0.3;
  const Metrics vanilla = run(model, 1, 8);
  model.router.order = TokenOrder::prioritized;
  const Metrics prioritized = run(model, 1, 8);
  EXPECT_EQ(vanilla.moe.front().kept, prioritized.moe.front().kept);
  EXPECT_NE(vanilla.main_loss, prioritized.main_loss);
}

TEST_F(Evaluation, FeaturesAreWhatTheHeadReadsOfEveryImageInOrder) {
  const auto features = [&](std::int64_t leaves) {
    Layout layout = state_.layout;
    layout.leaves_per_pass = leaves;
    Evaluator evaluator(config_.model, layout, *device_, *ops_);
    return evaluator.features(state_.params, state_.ranks, 21, 12, fill);
  };
  const FeatureSet one = features(1);
  EXPECT_EQ(one.width, config_.model.width);
  EXPECT_EQ(one.classes, 12);
  ASSERT_EQ(one.images(), 21);
  ASSERT_EQ(one.features.size(), static_cast<std::size_t>(21 * one.width));
  for (std::size_t i = 0; i < 21; ++i) EXPECT_EQ(one.labels[i], static_cast<std::int32_t>(i % 10));
  const FeatureSet four = features(4);
  EXPECT_EQ(one.features, four.features);
  EXPECT_EQ(one.labels, four.labels);
  // The logits of the first leaf are head(features).
  Activations& acts = state_.acts;
  fill(0, 8, acts.raw_images, acts.labels);
  ops_->normalize_images({.images = acts.raw_images, .y = acts.images});
  vit_moe_forward({*ops_, *state_.ranks.expert}, config_.model, state_.params, Mode::evaluation, acts);
  const float* pre_logits = acts.pre_logits.as<float>();
  EXPECT_TRUE(std::equal(pre_logits, pre_logits + 8 * one.width, one.features.begin()));
}

}  // namespace
}  // namespace vitrail
