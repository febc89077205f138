// FLOPs and active parameters of every router and head, against sums written out by hand.

#include <gtest/gtest.h>

#include "model/params.hpp"
#include "model/planner.hpp"

namespace vitrail {
namespace {

/// 16 patches of 4 x 4 grey pixels and a class token: T = 17, D = 8, F = 12, V = 5; blocks 1 and 3 of four have 4
/// experts.
ModelConfig tiny() {
  ModelConfig c;
  c.image_height = c.image_width = 16;
  c.channels = 1;
  c.patch_rows = c.patch_columns = 4;
  c.width = 8;
  c.mlp_width = 12;
  c.heads = 2;
  c.blocks = 4;
  c.classes = 5;
  c.moe_blocks = {1, 3};
  c.experts = 4;
  c.router.selected = 2;
  c.router.group_images = 2;
  c.router.capacity.factor = 1.5;
  c.router.capacity.multiple_of = 0;
  return c;
}

constexpr double kPatches = 2 * 16 * 16 * 8;
constexpr double kAttention = 8 * 17 * 8 * 8 + 4 * 17 * 17 * 8;  // of a block
constexpr double kMlp = 4 * 17 * 8 * 12;                         // one expert or MLP, all tokens
constexpr double kRouter = 2 * 17 * 8 * 4;
constexpr double kHead = 2 * 8 * 5;
constexpr double kDense = kPatches + 4 * kAttention + 2 * kMlp + kHead;

TEST(ForwardFlops, OfTopKCountKTimesTheFactor) {
  ModelConfig c = tiny();
  EXPECT_EQ(forward_flops_per_image(c), kDense + 2 * (kRouter + kMlp * 2 * 1.5));
  c.router.selected = 1;
  EXPECT_EQ(forward_flops_per_image(c), kDense + 2 * (kRouter + kMlp * 1.5));
}

TEST(ForwardFlops, DoNotShowTheRoundingOfTheCapacityFactor) {
  ModelConfig c = tiny();
  c.router.capacity.multiple_of = 64;
  EXPECT_EQ(forward_flops_per_image(c), kDense + 2 * (kRouter + kMlp * 2 * 1.5));
}

TEST(ForwardFlops, OfACapacityInSlotsCountThese) {
  ModelConfig c = tiny();
  c.router.capacity.factor.reset();
  c.router.capacity.slots = 17;  // of the group's 34 tokens, by each of 4 experts
  EXPECT_EQ(forward_flops_per_image(c), kDense + 2 * (kRouter + kMlp * 2));
}

TEST(ForwardFlops, OfExpertsChoiceCountTheFactorAlone) {
  ModelConfig c = tiny();
  c.router.kind = RouterKind::experts_choice;
  EXPECT_EQ(forward_flops_per_image(c), kDense + 2 * (kRouter + kMlp * 1.5));
}

TEST(ForwardFlops, OfSoftMoeCountEverySlotAndToken) {
  ModelConfig c = tiny();
  c.router.kind = RouterKind::soft;
  c.router.group_images = 1;
  c.router.capacity.factor.reset();
  c.router.capacity.slots = 3;
  const double slots = 4 * 3;
  const double mixing = (2 + 4) * 17 * 8 * slots;  // logits; dispatch and combine
  EXPECT_EQ(forward_flops_per_image(c), kDense + 2 * (mixing + 4 * 8 * 12 * slots));
}

TEST(ForwardFlops, OfPoolingHeads) {
  ModelConfig c = tiny();
  c.moe_blocks.clear();
  const double blocks = 4 * (8 * 16 * 8 * 8 + 4 * 16 * 16 * 8 + 4 * 16 * 8 * 12);  // 16 tokens: no class token
  for (const Classifier classifier : {Classifier::gap, Classifier::first}) {
    c.classifier = classifier;
    EXPECT_EQ(forward_flops_per_image(c), kPatches + blocks + kHead);
  }
  c.classifier = Classifier::map;
  const double projections = 2 * 8 * 8 * (1 + 16 + 16 + 1);  // query, keys, values, out
  const double probing = 2 * 2 * 16 * 8;
  EXPECT_EQ(forward_flops_per_image(c), kPatches + blocks + kHead + projections + probing + 4 * 8 * 12);
}

TEST(ForwardFlops, OfPreLogitsAreTheirProduct) {
  ModelConfig c = tiny();
  const double without = forward_flops_per_image(c);
  c.representation = 6;
  EXPECT_EQ(forward_flops_per_image(c), without - kHead + 2 * 8 * 6 + 2 * 6 * 5);
}

TEST(ForwardFlops, LeaveOutNormsOfQueriesAndKeys) {
  ModelConfig c = tiny();
  c.qk_norm = true;
  EXPECT_EQ(forward_flops_per_image(c), forward_flops_per_image(tiny()));
}

TEST(ModelPlan, SplitsParametersIntoDenseAndExperts) {
  const ModelPlan plan = plan_model(tiny());
  constexpr std::int64_t mlp = 2 * 8 * 12 + 12 + 8;
  EXPECT_EQ(plan.expert_parameters, 2 * 4 * mlp);
  EXPECT_EQ(plan.dense_parameters + plan.expert_parameters, plan.parameters);
  EXPECT_EQ(plan.parameters, parameter_count(parameter_table(tiny())));
  EXPECT_EQ(plan.active_parameters, plan.dense_parameters + 2 * 2 * mlp);
  EXPECT_EQ(plan.forward_flops, forward_flops_per_image(tiny()));
  EXPECT_EQ(training_flops(plan, 10), 30 * plan.forward_flops);
}

TEST(ModelPlan, OfADenseModelIsActiveAsAWhole) {
  ModelConfig c = tiny();
  c.moe_blocks.clear();
  const ModelPlan plan = plan_model(c);
  EXPECT_EQ(plan.expert_parameters, 0);
  EXPECT_EQ(plan.active_parameters, plan.parameters);
}

TEST(ModelPlan, CountsTheExpertsThatSeeAToken) {
  ModelConfig c = tiny();
  c.router.capacity.factor.reset();
  c.router.capacity.slots = 17;
  c.router.kind = RouterKind::experts_choice;  // 4 experts take 17 of 34 tokens each: two see a token
  ModelPlan plan = plan_model(c);
  EXPECT_EQ(2 * (plan.active_parameters - plan.dense_parameters), plan.expert_parameters);
  c.router.kind = RouterKind::soft;
  plan = plan_model(c);
  EXPECT_EQ(plan.active_parameters, plan.parameters);
}

TEST(ModelPlan, OfAModelThatCannotBeIsRefused) {
  ModelConfig c = tiny();
  c.heads = 3;
  EXPECT_THROW((void)plan_model(c), Error);
}

}  // namespace
}  // namespace vitrail
