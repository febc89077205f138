// The whole model: what it starts from, its noise, and where a NaN is found.

#include <limits>

#include <gtest/gtest.h>

#include "tests/model/small_model.hpp"

namespace vitrail::testing {
namespace {

TEST(VitMoe, StartsAtTheHeadsBiasWhateverTheImages) {
  ModelConfig c = small_config();
  c.head_bias = -1.5;
  SmallModel model(c, Dtype::f64, 1, 4);
  for (std::size_t i = 0; i < model.table.size(); ++i) {
    initialize(*model.ops, model.table[i], 3, static_cast<std::uint32_t>(i), true, 0, model.parameters.tensors[i]);
  }
  model.total_loss();
  for (const double logit : to_doubles(model.acts.logits)) EXPECT_EQ(logit, -1.5);
}

TEST(VitMoe, RoutesGroupsThatAreNoWholeImages) {
  ModelConfig c = small_config();
  c.router.group_tokens = 4;  // of 4 images with 5 tokens
  SmallModel model(c, Dtype::f64, 1, 4);
  model.total_loss();
  EXPECT_EQ(model.acts.blocks[1].moe.gates.shape, (Shape{5, 4, 4}));
  EXPECT_FALSE(first_not_finite(*model.device, *model.ops, model.acts).has_value());
}

TEST(VitMoe, AnImageDoesNotFeelOtherGroups) {
  SmallModel model(small_config(), Dtype::f64, 1, 4);
  model.total_loss();
  const std::vector<double> before = to_doubles(model.acts.logits);
  model.acts.images.as<double>()[model.acts.images.elements() - 1] += 3;  // of the last image: second group
  model.total_loss();
  const std::vector<double> after = to_doubles(model.acts.logits);
  const auto half = static_cast<std::ptrdiff_t>(before.size() / 2);
  EXPECT_TRUE(std::equal(before.begin(), before.begin() + half, after.begin()));
  EXPECT_FALSE(std::equal(before.begin() + half, before.end(), after.begin() + half));
}

TEST(RouterNoise, IsThatOfTheTokenWhereverItIsComputed) {
  SmallModel whole(small_config(), Dtype::f64, 1, 4);
  SmallModel later(small_config(), Dtype::f64, 1, 2);
  whole.acts.random = {.seed = 9, .step = 3, .first_leaf = 0};
  later.acts.random = {.seed = 9, .step = 3, .first_leaf = 1};
  draw_router_noise(*whole.ops, whole.config, whole.acts);
  draw_router_noise(*later.ops, later.config, later.acts);
  const std::vector<double> all = to_doubles(whole.acts.blocks[1].moe.noise);
  const std::vector<double> half = to_doubles(later.acts.blocks[1].moe.noise);
  EXPECT_TRUE(std::equal(half.begin(), half.end(), all.begin() + static_cast<std::ptrdiff_t>(half.size()), all.end()));
}

TEST(RouterNoise, DiffersBetweenBlocksStepsAndSeeds) {
  ModelConfig c = small_config();
  c.moe_blocks = {0, 1};
  SmallModel model(c, Dtype::f64, 1, 4);
  const auto drawn = [&](std::uint64_t seed, std::uint64_t step, std::size_t block) {
    model.acts.random = {.seed = seed, .step = step};
    draw_router_noise(*model.ops, c, model.acts);
    return to_doubles(model.acts.blocks[block].moe.noise);
  };
  const std::vector<double> noise = drawn(1, 1, 0);
  EXPECT_NE(noise, drawn(1, 1, 1));
  EXPECT_NE(noise, drawn(1, 2, 0));
  EXPECT_NE(noise, drawn(2, 1, 0));
  EXPECT_EQ(noise, drawn(1, 1, 0));
}

TEST(FirstNotFinite, NamesThePlaceWhereItBegins) {
  const auto found = [](const std::string& parameter, Recompute recompute = Recompute::none) {
    SmallModel model(small_config(), Dtype::f64, 1, 4);
    model.lay_out({.leaves = 1, .leaf_images = 4, .recompute = recompute});
    model.fill_batch(0);
    for (std::size_t i = 0; i < model.table.size(); ++i) {
      if (model.table[i].name == parameter) {
        model.parameters.tensors[i].as<double>()[0] = std::numeric_limits<double>::quiet_NaN();
      }
    }
    model.total_loss();
    return first_not_finite(*model.device, *model.ops, model.acts).value_or("nowhere");
  };
  EXPECT_EQ(found("none"), "nowhere");
  EXPECT_EQ(found("cls"), "the embedding");
  EXPECT_EQ(found("Encoder/encoderblock_0/SelfAttention/value/bias"), "encoderblock_0 (attention)");
  EXPECT_EQ(found("Encoder/encoderblock_0/Mlp/Dense_1/bias"), "encoderblock_0 (MLP or experts)");
  EXPECT_EQ(found("Encoder/encoderblock_1/SelfAttention/out/bias"), "encoderblock_1 (attention)");
  EXPECT_EQ(found("Encoder/encoderblock_1/Moe/Router/dense/kernel"), "encoderblock_1 (router)");
  EXPECT_EQ(found("head/bias"), "the head");
  for (const std::string layer : {"SelfAttention/out/bias", "Mlp/Dense_1/bias"}) {
    EXPECT_EQ(found("Encoder/encoderblock_0/" + layer, Recompute::block), "encoderblock_0") << layer;
  }
  EXPECT_EQ(found("Encoder/encoderblock_1/SelfAttention/out/bias", Recompute::block), "encoderblock_1")
      << "not the block before, though they share what attention gives";
  EXPECT_EQ(found("Encoder/encoderblock_1/SelfAttention/out/bias", Recompute::mlp), "encoderblock_1 (attention)");
}

TEST(FirstNotFinite, KnowsBrokenImages) {
  SmallModel model(small_config(), Dtype::f64, 1, 4);
  model.acts.images.as<double>()[5] = std::numeric_limits<double>::infinity();
  model.total_loss();
  EXPECT_EQ(first_not_finite(*model.device, *model.ops, model.acts).value_or("nowhere"), "the input images");
}

}  // namespace
}  // namespace vitrail::testing
