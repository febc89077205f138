// Memory of a pass: measured before it is taken, shared between blocks in evaluation.

#include <gtest/gtest.h>

#include "tests/model/small_model.hpp"

namespace vitrail::testing {
namespace {

std::int64_t measured_bytes(const ModelConfig& c, const PassShape& shape) {
  Arena arena("measured");
  (void)lay_out_activations(arena, *make_cpu_device(), Dtype::f32, c, shape);
  return arena.bytes();
}

TEST(Activations, AreMeasuredToTheByte) {
  const auto device = make_cpu_device();
  for (const std::int64_t expert_parallel : {1, 2, 4}) {
    for (const auto& [backward, keep_routing, recompute] : {std::tuple{true, false, Recompute::none},
                                                            {true, false, Recompute::mlp},
                                                            {true, false, Recompute::block},
                                                            {false, false, Recompute::none},
                                                            {false, true, Recompute::none}}) {
      for (const std::vector<std::int64_t>& moe : {std::vector<std::int64_t>{}, {1}, {0, 1}}) {
        ModelConfig c = small_config();
        c.moe_blocks = moe;
        c.representation = backward ? 6 : 0;
        const PassShape shape{.leaves = 2,
                              .leaf_images = 4,
                              .expert_parallel = expert_parallel,
                              .backward = backward,
                              .keep_routing = keep_routing,
                              .recompute = recompute};
        Arena real("real", *device, measured_bytes(c, shape));
        (void)lay_out_activations(real, *device, Dtype::f32, c, shape);
        EXPECT_EQ(real.bytes(), measured_bytes(c, shape));
        EXPECT_THROW(real.allocate(Dtype::f32, {1}), Error) << "the arena was larger than measured";
      }
    }
  }
}

TEST(Activations, AReportIsOneRunOfMemoryThatBeginsWithAllLosses) {
  const auto device = make_cpu_device();
  for (const bool backward : {true, false}) {
    ModelConfig c = small_config();
    c.moe_blocks = {0, 1};
    const PassShape shape{.leaves = 2, .leaf_images = 4, .backward = backward};
    Arena real("real", *device, measured_bytes(c, shape));
    const Activations acts = lay_out_activations(real, *device, Dtype::f32, c, shape);
    std::vector<ConstTensor> losses = {acts.loss}, counts = {acts.predicted};
    for (const BlockActivations& block : acts.blocks) {
      const MoeActivations& moe = block.moe;
      for (const Tensor& x : {moe.importance, moe.load, moe.gshard, moe.z}) losses.push_back(x);
      for (const Tensor& x : {moe.assigned, moe.kept, moe.processed}) counts.push_back(x);
    }
    const auto* const report = static_cast<const std::byte*>(acts.report.data);
    const auto begins = [&](ConstTensor x) { return static_cast<const std::byte*>(x.data) - report; };
    EXPECT_EQ(begins(acts.losses), 0);
    for (const ConstTensor& x : losses) {
      EXPECT_GE(begins(x), 0);
      EXPECT_LE(begins(x) + x.bytes(), acts.losses.bytes());
      std::fill_n(const_cast<float*>(x.as<float>()), x.elements(), 1.0F);
    }
    for (const ConstTensor& x : counts) {
      EXPECT_GE(begins(x), acts.losses.bytes());
      EXPECT_LE(begins(x) + x.bytes(), acts.report.bytes());
    }
    const std::vector<double> all = to_doubles(acts.losses);
    EXPECT_EQ(std::count(all.begin(), all.end(), 1.0), 8 + 8 * 4)
        << "no losses share memory; 8 images, 8 routing groups";
    EXPECT_EQ(std::count(all.begin(), all.end(), 0.0), std::ssize(all) - 40) << "nothing else is in between";
  }
}

TEST(Activations, HoldWhatSeveralLabelsAndMixupNeed) {
  const auto device = make_cpu_device();
  const ModelConfig c = small_config();
  const PassShape shape{.leaves = 2, .leaf_images = 4, .labels = 3, .mixup_images = 2};
  Arena real("real", *device, measured_bytes(c, shape));
  const Activations acts = lay_out_activations(real, *device, Dtype::f32, c, shape);
  EXPECT_EQ(real.bytes(), measured_bytes(c, shape));
  EXPECT_EQ(acts.labels.shape, (Shape{8, 3}));
  EXPECT_EQ(acts.mix_weights.shape, (Shape{2, 4, 2}));
  EXPECT_EQ(acts.unmixed_images.shape, acts.images.shape);
  EXPECT_EQ(acts.unmixed_targets.shape, acts.targets.shape);
  EXPECT_LT(measured_bytes(c, {.leaves = 2, .leaf_images = 4, .labels = 3}), measured_bytes(c, shape));
}

TEST(Activations, OfEvaluationGrowWithTheNumberOfBlocksByWhatIsCountedAlone) {
  ModelConfig c = small_config();
  const auto bytes = [&c](std::int64_t blocks, bool sparse, bool backward, bool keep_routing = false) {
    c.blocks = blocks;
    c.moe_blocks = moe_blocks_by_name(sparse ? "every-2" : "none", blocks);
    return measured_bytes(
        c, {.leaves = 2, .leaf_images = 4, .expert_parallel = 1, .backward = backward, .keep_routing = keep_routing});
  };
  EXPECT_EQ(bytes(4, false, false), bytes(12, false, false));
  // Seven small tensors for each of the four more sparse blocks, which an arena rounds up.
  EXPECT_GT(bytes(12, true, false), bytes(4, true, false));
  EXPECT_LE(bytes(12, true, false), bytes(4, true, false) + std::int64_t{4} * 7 * 64);
  EXPECT_LT(bytes(12, true, false), bytes(12, true, false, true));
  EXPECT_LT(bytes(12, true, false, true), bytes(12, true, true));
  EXPECT_LT(bytes(4, true, true), bytes(12, true, true));
}

TEST(Activations, ThatAreComputedAgainAreThereOnce) {
  constexpr std::int64_t kMore = 8;  // dense blocks, or as many sparse ones
  ModelConfig c = small_config();
  const std::int64_t leaves = 2, b = 4, n = leaves * b * c.tokens();
  const auto grows_by = [&](bool sparse, Recompute recompute) {
    std::vector<std::int64_t> bytes;
    for (const std::int64_t blocks : {std::int64_t{2}, 2 + kMore}) {
      c.blocks = blocks;
      c.moe_blocks = sparse ? moe_blocks_by_name("every-1", blocks) : std::vector<std::int64_t>();
      bytes.push_back(measured_bytes(c, {.leaves = leaves, .leaf_images = b, .recompute = recompute}));
    }
    return (bytes[1] - bytes[0]) / kMore;
  };
  const auto f32_bytes = [](std::int64_t elements) { return (4 * elements + 63) / 64 * 64; };  // as an arena rounds
  const std::int64_t stream = f32_bytes(n * c.width);
  EXPECT_EQ(grows_by(false, Recompute::none) - grows_by(false, Recompute::mlp), f32_bytes(n * c.mlp_width));
  EXPECT_EQ(grows_by(false, Recompute::block), stream);
  const std::int64_t rows = leaves * c.experts * (b * c.tokens() / c.group_tokens()) * c.slots();
  EXPECT_EQ(grows_by(true, Recompute::none) - grows_by(true, Recompute::mlp), f32_bytes(rows * c.mlp_width));
  constexpr std::int64_t kReported = std::int64_t{7} * 64;  // small tensors
  EXPECT_EQ(grows_by(true, Recompute::block), stream + f32_bytes(n * c.experts) + kReported);
}

/// Gradients are the same bits, and what blocks keep lies in those of earlier blocks.
TEST(Activations, InTheMemoryOfEarlierBlocksGradientsDoNoHarm) {
  ModelConfig c = small_config();
  c.blocks = 5;
  c.moe_blocks = {1, 3};
  SmallModel apart(c, Dtype::f64, 1, 2);
  SmallModel spared(c, Dtype::f64, 1, 2);
  const PassShape shape{.leaves = 1, .leaf_images = 2};
  const std::int64_t all = spared.lay_out(shape);
  EXPECT_LT(spared.lay_out(shape, true), all);
  for (int pass = 0; pass < 2; ++pass) {  // the second begins with gradients where activations will be
    spared.fill_batch(0);
    EXPECT_EQ(apart.total_loss(), spared.total_loss());
    apart.backward();
    spared.backward();
    for (std::size_t i = 0; i < apart.table.size(); ++i)
      EXPECT_EQ(apart.gradient(i), spared.gradient(i)) << apart.table[i].name;
  }
}

TEST(Activations, SharedByBlocksGiveTheSameLogits) {
  ModelConfig c = small_config();
  c.blocks = 6;
  c.moe_blocks = {1, 2, 5};
  c.router.capacity.factor = 0.7;
  SmallModel keeping(c, Dtype::f64, 2, 2);
  SmallModel sharing(c, Dtype::f64, 2, 2, false);
  keeping.total_loss(Mode::evaluation);
  sharing.total_loss(Mode::evaluation);
  EXPECT_EQ(to_doubles(keeping.acts.logits), to_doubles(sharing.acts.logits));
  EXPECT_EQ(to_doubles(keeping.acts.loss), to_doubles(sharing.acts.loss));
  for (const std::int64_t block : c.moe_blocks) {
    const MoeActivations& kept = keeping.acts.blocks[static_cast<std::size_t>(block)].moe;
    const MoeActivations& shared = sharing.acts.blocks[static_cast<std::size_t>(block)].moe;
    EXPECT_EQ(to_doubles(kept.kept), to_doubles(shared.kept)) << block;
    EXPECT_EQ(to_doubles(kept.processed), to_doubles(shared.processed)) << block;
    EXPECT_EQ(to_doubles(kept.importance), to_doubles(shared.importance)) << block;
  }
}

}  // namespace
}  // namespace vitrail::testing
