// An element's dropout follows from what it is, not from which rank computes it.

#include <gtest/gtest.h>

#include "model/dropout.hpp"
#include "tests/model/small_model.hpp"

namespace vitrail::testing {
namespace {

ModelConfig dropping_config() {
  ModelConfig c = small_config();
  c.dropout = 0.5;
  c.attention_dropout = 0.25;
  c.expert_dropout = 0.5;
  c.stochastic_depth = 0.5;
  return c;
}

Activations pass_of(const PassShape& shape, const Randomness& random) {
  Activations acts;
  acts.shape = shape;
  acts.random = random;
  return acts;
}

std::uint64_t index_of(const DropoutDraw& d, std::int64_t i) {
  const std::int64_t j = i / d.share;
  return d.first + static_cast<std::uint64_t>(j / d.run * d.stride + j % d.run);
}

TEST(TokenDropout, CountsElementsOverTheWholeStep) {
  const ModelConfig c = dropping_config();
  const Activations whole = pass_of({.leaves = 4, .leaf_images = 2}, {});
  const Activations third = pass_of({.leaves = 1, .leaf_images = 2}, {.first_leaf = 2});
  const std::int64_t leaf = 2 * c.tokens() * c.width;
  const DropoutDraw all = token_dropout(c, whole, 1, DropoutPlace::output, c.width);
  const DropoutDraw part = token_dropout(c, third, 1, DropoutPlace::output, c.width);
  for (const std::int64_t i : {std::int64_t{0}, std::int64_t{7}, leaf - 1}) {
    EXPECT_EQ(index_of(part, i), index_of(all, 2 * leaf + i));
  }
  EXPECT_EQ(part.layer, all.layer);
  EXPECT_NE(token_dropout(c, whole, 0, DropoutPlace::output, c.width).layer, all.layer);
  EXPECT_NE(token_dropout(c, whole, 1, DropoutPlace::attention_output, c.width).layer, all.layer);
}

// Two ranks that share the experts serve the same leaves: rank 1 has experts 2 and 3.
TEST(ExpertDropout, FindsTheSameRowsOnEveryLayout) {
  const ModelConfig c = dropping_config();
  const std::int64_t expert = c.slots() * c.mlp_width;  // one group of two images per leaf
  const Activations alone = pass_of({.leaves = 4, .leaf_images = 2, .expert_parallel = 1}, {});
  const Activations shared = pass_of({.leaves = 1, .leaf_images = 2, .expert_parallel = 2},
                                     {.first_leaf = 3, .first_source_leaf = 2, .first_expert = 2});
  const DropoutDraw all = expert_dropout(c, alone, 1, DropoutPlace::hidden, c.mlp_width);
  const DropoutDraw part = expert_dropout(c, shared, 1, DropoutPlace::hidden, c.mlp_width);
  for (std::int64_t source = 0; source < 2; ++source) {
    for (std::int64_t e = 0; e < 2; ++e) {
      for (const std::int64_t i : {std::int64_t{0}, expert - 1}) {
        EXPECT_EQ(index_of(part, (source * 2 + e) * expert + i), index_of(all, ((2 + source) * 4 + 2 + e) * expert + i))
            << "source leaf " << source << ", expert " << e;
      }
    }
  }
}

TEST(StochasticDepth, RisesFromNothingToItsRateAndTakesWholeImages) {
  ModelConfig c = dropping_config();
  c.blocks = 5;
  const Activations acts = pass_of({.leaves = 2, .leaf_images = 2}, {.first_leaf = 3});
  EXPECT_EQ(depth_dropout(c, acts, 0, DropoutPlace::mlp_depth).rate, 0);
  EXPECT_EQ(depth_dropout(c, acts, 2, DropoutPlace::mlp_depth).rate, 0.25);
  const DropoutDraw last = depth_dropout(c, acts, 4, DropoutPlace::mlp_depth);
  EXPECT_EQ(last.rate, 0.5);
  const std::int64_t image = c.tokens() * c.width;
  EXPECT_EQ(index_of(last, 0), 6U);
  EXPECT_EQ(index_of(last, image - 1), 6U);
  EXPECT_EQ(index_of(last, image), 7U);
}

TEST(AttentionDropout, CountsImagesOverTheWholeStep) {
  const ModelConfig c = dropping_config();
  const Activations acts = pass_of({.leaves = 1, .leaf_images = 2}, {.first_leaf = 3});
  EXPECT_EQ(attention_dropout(c, acts, 1).first, static_cast<std::uint64_t>(6 * 2 * 5 * 5));
}

TEST(Dropouts, AreForTrainingOnly) {
  const ModelConfig plain = small_config();
  SmallModel with(dropping_config(), Dtype::f64, 1, 4);
  SmallModel without(plain, Dtype::f64, 1, 4);
  const auto difference = [&](Mode mode) {
    with.total_loss(mode);
    without.total_loss(mode);
    double largest = 0;
    const std::vector<double> a = to_doubles(with.acts.logits);
    const std::vector<double> b = to_doubles(without.acts.logits);
    for (std::size_t i = 0; i < a.size(); ++i) largest = std::max(largest, std::abs(a[i] - b[i]));
    return largest;
  };
  EXPECT_EQ(difference(Mode::evaluation), 0);
  EXPECT_GT(difference(Mode::training), 0.01);
}

}  // namespace
}  // namespace vitrail::testing
