// The sparse layer on one rank. [V-MoE tests]

#include <cmath>

#include <gtest/gtest.h>

#include "tests/model/small_model.hpp"

namespace vitrail::testing {
namespace {

// 32 items x_i = 10 (i + 1) in groups of 4; item i goes to expert 2i mod 4 with 0.7 and to 2i+1 mod 4 with 0.3; expert
// e adds 1 + e. Channel 0 of a token is its item, channels 1 to 4 are the logarithms of the gates it wants.
ModelConfig adding_config() {
  ModelConfig c;
  c.image_height = 3;
  c.image_width = 1;
  c.channels = 1;
  c.patch_rows = c.patch_columns = 1;
  c.width = 5;
  c.mlp_width = 1;
  c.heads = 1;
  c.blocks = 1;
  c.classes = 2;
  c.moe_blocks = {0};
  c.experts = 4;
  c.router.selected = 2;
  c.router.group_tokens = 4;
  c.router.capacity.factor.reset();
  c.router.capacity.slots = 2;
  return c;
}

class AddingExperts : public ::testing::Test {
 protected:
  AddingExperts() : AddingExperts(adding_config()) {}
  explicit AddingExperts(const ModelConfig& config) : model_(config, Dtype::f64, 1, 8) {
    params_ = bind_params(config, model_.table, model_.parameters.tensors).blocks[0];
    std::vector<double> router(20, 0.0);
    for (std::size_t e = 0; e < 4; ++e) router[(e + 1) * 4 + e] = 1;
    from_doubles(router, params_.router);
    // gelu(x) = x for the x >= 10 here: the tanh in it is 1 to the last bit.
    std::vector<double> picks(20, 0.0);
    std::vector<double> adds(20, 0.0);
    for (std::size_t e = 0; e < 4; ++e) {
      picks[e * 5] = 1;
      adds[e * 5] = static_cast<double>(1 + e);
    }
    from_doubles(picks, params_.mlp0.w);
    from_doubles(std::vector<double>(4, 0.0), params_.mlp0.b);
    from_doubles(picks, params_.mlp1.w);
    from_doubles(adds, params_.mlp1.b);
    std::vector<double> x;
    for (int i = 0; i < 32; ++i) {
      x.push_back(10.0 * (i + 1));
      for (int e = 0; e < 4; ++e)
        x.push_back(e == 2 * i % 4 ? std::log(.7) : (e == (2 * i + 1) % 4 ? std::log(.3) : -50));
    }
    from_doubles(x, model_.acts.x0);
  }
  /// Channel 0 of the layer's output without a residual.
  std::vector<double> items() {
    Activations& acts = model_.acts;
    model_.device->zero(acts.blocks[0].middle);
    moe_forward({*model_.ops, *model_.self}, model_.config, params_, acts.x0, acts.blocks[0].middle, Mode::evaluation,
                acts, acts.blocks[0].moe, acts.blocks[0].x);
    const std::vector<double> y = to_doubles(acts.blocks[0].x);
    std::vector<double> items;
    for (std::size_t i = 0; i < y.size(); i += 5) items.push_back(y[i]);
    return items;
  }
  static double p(int e) { return 1.0 + e % 4; }

  SmallModel model_;
  BlockParams params_;
};

TEST_F(AddingExperts, GiveEveryItemTheWeightedSumOfItsTwo) {
  const std::vector<double> y = items();
  for (int i = 0; i < 32; ++i) {
    EXPECT_NEAR(y[static_cast<std::size_t>(i)], 10 * (i + 1) + .7 * p(2 * i) + .3 * p(2 * i + 1), 1e-9) << i;
  }
  for (std::int64_t e = 0; e < 4; ++e) {
    EXPECT_EQ(model_.acts.blocks[0].moe.assigned.as<std::int64_t>()[e], 16);
    EXPECT_EQ(model_.acts.blocks[0].moe.kept.as<std::int64_t>()[e], 16);
  }
}

TEST_F(AddingExperts, DropTheLastItemsOfAGroupWhenOneSlotIsLeft) {
  model_.config.router.capacity.slots = 1;
  // The buffers are laid out anew: C is smaller.
  SmallModel tight(model_.config, Dtype::f64, 1, 8);
  from_doubles(to_doubles(model_.acts.x0), tight.acts.x0);
  tight.device->zero(tight.acts.blocks[0].middle);
  moe_forward({*tight.ops, *tight.self}, tight.config, params_, tight.acts.x0, tight.acts.blocks[0].middle,
              Mode::evaluation, tight.acts, tight.acts.blocks[0].moe, tight.acts.blocks[0].x);
  const std::vector<double> y = to_doubles(tight.acts.blocks[0].x);
  for (int i = 0; i < 32; ++i) {
    const double whole = 10 * (i + 1) + .7 * p(2 * i) + .3 * p(2 * i + 1);
    // Of a group's four items the first two take the only slots of all experts.
    EXPECT_NEAR(y[static_cast<std::size_t>(i) * 5], i % 4 < 2 ? whole : 0.0, 1e-9) << i;
  }
  EXPECT_EQ(tight.acts.blocks[0].moe.kept.as<std::int64_t>()[0], 8);
  EXPECT_EQ(tight.acts.blocks[0].moe.assigned.as<std::int64_t>()[0], 16);
}

TEST(Router, NoiseChangesTheGatesButNotTheImportance) {
  SmallModel one(small_config(), Dtype::f64, 1, 4);
  SmallModel other(small_config(), Dtype::f64, 1, 4);
  one.acts.random.seed = 1;
  other.acts.random.seed = 2;
  draw_router_noise(*one.ops, one.config, one.acts);
  draw_router_noise(*other.ops, other.config, other.acts);
  one.total_loss();
  other.total_loss();
  const MoeActivations& a = one.acts.blocks[1].moe;
  const MoeActivations& b = other.acts.blocks[1].moe;
  EXPECT_NE(to_doubles(a.gates), to_doubles(b.gates));
  EXPECT_NE(to_doubles(a.load), to_doubles(b.load));
  EXPECT_NE(to_doubles(a.gshard), to_doubles(b.gshard));
  EXPECT_EQ(to_doubles(a.importance), to_doubles(b.importance));
  one.total_loss(Mode::evaluation);
  other.total_loss(Mode::evaluation);
  EXPECT_EQ(to_doubles(a.gates), to_doubles(b.gates)) << "evaluation has no noise";
  EXPECT_EQ(to_doubles(a.gates), to_doubles(a.gates_clean));
}

}  // namespace
}  // namespace vitrail::testing
