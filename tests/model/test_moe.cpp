// The sparse layer on one rank. [V-MoE tests]

#include <cmath>

#include <gtest/gtest.h>

#include "base/bf16.hpp"
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

double rounded(double x) { return round_to_bf16(x); }

TEST(Bf16Exchange, RoundsRowsAndOutputsAlsoWhenNothingLeavesTheRank) {
  ModelConfig config = small_config();
  SmallModel plain(config, Dtype::f64, 1, 4);
  config.router.exchange_bf16 = true;
  SmallModel model(config, Dtype::f64, 1, 4);
  plain.total_loss();
  model.total_loss();
  const MoeActivations& moe = model.acts.blocks[1].moe;
  const std::vector<double> exact = to_doubles(plain.acts.blocks[1].moe.expert_x);
  const std::vector<double> sent = to_doubles(moe.expert_x);
  bool any = false;
  for (std::size_t i = 0; i < sent.size(); ++i) {
    ASSERT_EQ(sent[i], rounded(exact[i]));
    any = any || sent[i] != exact[i];
  }
  EXPECT_TRUE(any) << "nothing had to be rounded";
  for (const double o : to_doubles(moe.o)) ASSERT_EQ(o, rounded(o));
  EXPECT_EQ(to_doubles(moe.gate), to_doubles(plain.acts.blocks[1].moe.gate)) << "gates do not travel";
  model.backward();
  for (const double d : to_doubles(model.acts.scratch.rows_home)) ASSERT_EQ(d, rounded(d));
}

TEST(RandomChoices, KeepTheGatesOfATokenAndLoseItsExperts) {
  ModelConfig config = small_config();
  SmallModel plain(config, Dtype::f64, 1, 4);
  config.router.random_blocks = {1};
  SmallModel model(config, Dtype::f64, 1, 4);
  plain.total_loss(Mode::evaluation);
  model.total_loss(Mode::evaluation);
  const MoeActivations& before = plain.acts.blocks[1].moe;
  const MoeActivations& after = model.acts.blocks[1].moe;
  const std::vector<double> a = to_doubles(before.gate);
  const std::vector<double> b = to_doubles(after.gate);
  for (std::size_t i = 0; i < a.size(); ++i) EXPECT_NEAR(a[i], b[i], 1e-14);
  EXPECT_NE(to_doubles(before.selected), to_doubles(after.selected));
  EXPECT_THROW(model.total_loss(Mode::training), Error) << "they have no gradient";
}

TEST(ExpertsChoice, FillsEverySlotAndHasNoLosses) {
  ModelConfig config = small_config();
  config.router.kind = RouterKind::experts_choice;
  config.router.capacity.factor = 1.0;
  SmallModel model(config, Dtype::f64, 1, 4);
  model.total_loss();
  const MoeActivations& moe = model.acts.blocks[1].moe;
  for (std::int64_t e = 0; e < 4; ++e) EXPECT_EQ(moe.kept.as<std::int64_t>()[e], 2 * config.slots());
  for (const double source : to_doubles(moe.source)) EXPECT_GE(source, 0);
  for (const Tensor& loss : {moe.importance, moe.load, moe.gshard, moe.z}) EXPECT_EQ(to_doubles(loss)[0], 0);
}

TEST(SoftMoe, GivesEveryTokenAMeanOfAllExperts) {
  ModelConfig config = small_config();
  config.router.kind = RouterKind::soft;
  config.router.noise_std = 0;
  SmallModel model(config, Dtype::f64, 2, 2);
  const VitMoeParams params = bind_params(model.config, model.table, model.parameters.tensors);
  // Experts that give the same for every row: their second layer is a bias alone.
  const BlockParams& block = params.blocks[1];
  from_doubles(std::vector<double>(static_cast<std::size_t>(block.mlp1.w.elements()), 0.0), block.mlp1.w);
  std::vector<double> bias(static_cast<std::size_t>(block.mlp1.b.elements()), 2.5);
  from_doubles(bias, block.mlp1.b);
  model.total_loss();
  const std::vector<double> x = to_doubles(model.acts.blocks[1].x);
  const std::vector<double> residual = to_doubles(model.acts.blocks[1].middle);
  for (std::size_t i = 0; i < x.size(); ++i) EXPECT_NEAR(x[i] - residual[i], 2.5, 1e-13) << i;
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
