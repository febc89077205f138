// The whole backward pass is the derivative of the whole forward pass: by complex step, f(x + ih) = f(x) + ih f'(x),
// which subtracts nothing and is good to about 1e-15.

#include <functional>

#include <gtest/gtest.h>

#include "tests/model/small_model.hpp"

namespace vitrail::testing {
namespace {

constexpr double kStep = 1e-30;

struct BackwardCase {
  std::string name;
  ModelConfig config = small_config();
  Loss loss = Loss::softmax;
  std::int64_t leaves = 1;
  std::int64_t leaf_images = 4;
  bool drops = false;
};

BackwardCase make(const std::string& name, const std::function<void(BackwardCase&)>& change) {
  BackwardCase made;
  made.name = name;
  change(made);
  return made;
}

void experts_choice(BackwardCase& c) {
  c.config.router.kind = RouterKind::experts_choice;
  c.config.router.capacity.factor = 1.0;
}

void soft(BackwardCase& c) {
  c.config.router.kind = RouterKind::soft;
  c.config.router.capacity.factor.reset();
  c.config.router.capacity.slots = 3;
}

std::vector<BackwardCase> backward_cases() {
  return {
      make("Dense", [](BackwardCase& c) { c.config.moe_blocks = {}; }),
      make("OneChoice", [](BackwardCase& c) { c.config.router.selected = 1; }),
      make("TwoChoices", [](BackwardCase&) {}),
      make("AllExperts", [](BackwardCase& c) { c.config.router.selected = 4; }),
      make("EveryBlockSparse",
           [](BackwardCase& c) {
             c.config.moe_blocks = {0, 1};
           }),
      make("WithoutNoise", [](BackwardCase& c) { c.config.router.noise_std = 0; }),
      make("Drops",
           [](BackwardCase& c) {
             c.config.router.capacity.factor = 0.5;
             c.drops = true;
           }),
      make("PrioritizedDrops",
           [](BackwardCase& c) {
             c.config.router.capacity.factor = 0.4;
             c.config.router.order = TokenOrder::prioritized;
             c.drops = true;
           }),
      make("LargeAuxiliaryWeights",
           [](BackwardCase& c) {
             c.config.router.importance_weight = 3;
             c.config.router.load_weight = 2;
             c.config.router.gshard_weight = 1;
           }),
      make("Representation", [](BackwardCase& c) { c.config.representation = 6; }),
      make("Sigmoid", [](BackwardCase& c) { c.loss = Loss::sigmoid; }),
      make("FirstToken", [](BackwardCase& c) { c.config.classifier = Classifier::first; }),
      make("MeanOfTokens",
           [](BackwardCase& c) {
             c.config.classifier = Classifier::gap;
             c.config.positions = PositionEmbedding::sincos2d;
           }),
      make("AttentionPooling",
           [](BackwardCase& c) {
             c.config.classifier = Classifier::map;
             c.config.positions = PositionEmbedding::none;
             c.config.representation = 6;
           }),
      make("AttentionPoolingOfNormalisedHeads",
           [](BackwardCase& c) {
             c.config.classifier = Classifier::map;
             c.config.qk_norm = true;
             c.leaves = 2;
           }),
      make("SincosAndClassToken", [](BackwardCase& c) { c.config.positions = PositionEmbedding::sincos2d; }),
      make("NormalisedHeads", [](BackwardCase& c) { c.config.qk_norm = true; }),
      make("Dropouts",
           [](BackwardCase& c) {
             c.config.dropout = 0.3;
             c.config.attention_dropout = 0.4;
             c.config.expert_dropout = 0.2;
             c.leaves = 2;
           }),
      make("StochasticDepth",
           [](BackwardCase& c) {
             c.config.stochastic_depth = 0.5;
             c.config.moe_blocks = {0};  // so that both kinds of MLP are there; the last block is dropped most
             c.leaves = 2;
           }),
      make("StochasticDepthOfExperts",
           [](BackwardCase& c) {
             c.config.stochastic_depth = 0.5;
             c.config.dropout = 0.1;
           }),
      make("ZLoss", [](BackwardCase& c) { c.config.router.z_weight = 0.5; }),
      make("NormalisedGates",
           [](BackwardCase& c) {
             c.config.router.normalize_gates = true;
             c.config.router.capacity.factor = 0.6;
             c.drops = true;
           }),
      make("ExpertsChoice", experts_choice),
      make("ExpertsChoiceOfTwoLeavesNormalised",
           [](BackwardCase& c) {
             experts_choice(c);
             c.config.router.normalize_gates = true;
             c.config.router.capacity.factor = 1.3;
             c.leaves = 2;
           }),
      make("SoftMoe", soft),
      make("SoftMoeOfTwoLeavesWithoutNoise",
           [](BackwardCase& c) {
             soft(c);
             c.config.router.noise_std = 0;
             c.config.expert_dropout = 0.2;
             c.config.stochastic_depth = 0.3;
             c.leaves = 2;
           }),
      make("TwoLeaves", [](BackwardCase& c) { c.leaves = 2; }),
      make("TwoLeavesDropsSigmoidRepresentation",
           [](BackwardCase& c) {
             c.leaves = 2;
             c.leaf_images = 2;
             c.loss = Loss::sigmoid;
             c.config.representation = 3;
             c.config.router.capacity.factor = 0.6;
             c.drops = true;
           }),
  };
}

std::vector<std::uint8_t> to_bytes(ConstTensor x) { return {x.as<std::uint8_t>(), x.as<std::uint8_t>() + x.bytes()}; }

class WholeBackward : public ::testing::TestWithParam<BackwardCase> {
 protected:
  void SetUp() override {
    const BackwardCase& c = GetParam();
    real_ = std::make_unique<SmallModel>(c.config, Dtype::f64, c.leaves, c.leaf_images);
    complex_ = std::make_unique<SmallModel>(c.config, Dtype::c128, c.leaves, c.leaf_images);
    for (SmallModel* model : {real_.get(), complex_.get()}) model->loss = c.loss;
    real_->total_loss();
    real_->backward();
  }
  /// Dropped assignments of the forward pass.
  [[nodiscard]] std::int64_t dropped() const {
    std::int64_t count = 0;
    for (const std::int64_t block : real_->config.moe_blocks) {
      for (const double row : to_doubles(real_->acts.blocks[static_cast<std::size_t>(block)].moe.row))
        count += row < 0 ? 1 : 0;
    }
    return count;
  }
  std::complex<double>& entry(std::size_t tensor, std::int64_t i) {
    return complex_->parameters.tensors[tensor].as<std::complex<double>>()[i];
  }

  std::unique_ptr<SmallModel> real_, complex_;
};

TEST_P(WholeBackward, IsTheDerivativeInRandomDirections) {
  EXPECT_TRUE(!GetParam().drops || dropped() > 0) << "the case is meant to drop assignments";
  for (std::uint32_t direction = 0; direction < 3; ++direction) {
    double expected = 0;
    double squares = 0;
    for (std::size_t t = 0; t < real_->table.size(); ++t) {
      const std::vector<double> gradient = real_->gradient(t);
      const Philox random(direction, Purpose::test, t);
      for (std::size_t i = 0; i < gradient.size(); ++i) {
        const double sign = (random.bits(i) & 1U) != 0 ? 1.0 : -1.0;
        expected += sign * gradient[i];
        squares += gradient[i] * gradient[i];
        std::complex<double>& x = entry(t, static_cast<std::int64_t>(i));
        x = {x.real(), sign * kStep};
      }
    }
    // Signs make the sum about as large as the gradient's norm.
    EXPECT_NEAR(complex_->total_loss().imag() / kStep, expected, 1e-11 * std::sqrt(squares)) << direction;
  }
}

TEST_P(WholeBackward, IsTheDerivativeByOneEntryOfEveryTensor) {
  double largest = 0;
  for (std::size_t t = 0; t < real_->table.size(); ++t) {
    for (const double g : real_->gradient(t)) largest = std::max(largest, std::abs(g));
  }
  EXPECT_GT(largest, 0);
  for (std::size_t t = 0; t < real_->table.size(); ++t) {
    const std::vector<double> gradient = real_->gradient(t);
    double scale = 1e-3 * largest;
    for (const double g : gradient) scale = std::max(scale, std::abs(g));
    const std::size_t i = Philox(5, Purpose::test, t).bits(0) % gradient.size();
    std::complex<double>& x = entry(t, static_cast<std::int64_t>(i));
    x = {x.real(), kStep};
    EXPECT_NEAR(complex_->total_loss().imag() / kStep, gradient[i], 1e-11 * scale)
        << real_->table[t].name << " entry " << i;
    x = {x.real(), 0};
  }
}

/// Of five blocks, so that more than one of each kind is computed again, and with activations in spare gradients.
TEST_P(WholeBackward, IsTheSameBitsWhenBlocksComputeAgainWhatTheyDidNotKeep) {
  const BackwardCase& c = GetParam();
  ModelConfig config = c.config;
  config.blocks = 5;
  if (!config.moe_blocks.empty()) config.moe_blocks = {1, 2, 4};
  SmallModel keeping(config, Dtype::f64, c.leaves, c.leaf_images);
  keeping.loss = c.loss;
  const std::complex<double> loss = keeping.total_loss();
  keeping.backward();
  for (const Recompute recompute : {Recompute::mlp, Recompute::block}) {
    SmallModel again(config, Dtype::f64, c.leaves, c.leaf_images);
    again.loss = c.loss;
    again.lay_out({.leaves = c.leaves, .leaf_images = c.leaf_images, .recompute = recompute}, true);
    for (int pass = 0; pass < 2; ++pass) {  // the second begins with gradients where activations will be
      SCOPED_TRACE(::testing::Message() << (recompute == Recompute::mlp ? "mlp" : "block") << ", pass " << pass);
      again.fill_batch(0);
      EXPECT_EQ(again.total_loss(), loss);
      again.backward();
      EXPECT_EQ(to_bytes(again.acts.report), to_bytes(keeping.acts.report)) << "nothing is counted twice";
      for (std::size_t t = 0; t < again.table.size(); ++t)
        EXPECT_EQ(again.gradient(t), keeping.gradient(t)) << again.table[t].name;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Models, WholeBackward, ::testing::ValuesIn(backward_cases()),
                         [](const auto& of) { return of.param.name; });

class Leaves : public ::testing::TestWithParam<RouterKind> {};
INSTANTIATE_TEST_SUITE_P(Routers, Leaves,
                         ::testing::Values(RouterKind::top_k, RouterKind::experts_choice, RouterKind::soft));

TEST_P(Leaves, TwoOfAPassAreTwoPassesOfOneLeaf) {
  ModelConfig config = small_config();
  config.router.kind = GetParam();
  config.router.capacity.factor = 0.6;
  config.router.order = GetParam() == RouterKind::top_k ? TokenOrder::random : TokenOrder::vanilla;
  config.dropout = 0.2;
  config.attention_dropout = 0.1;
  config.expert_dropout = 0.3;
  config.stochastic_depth = 0.3;
  SmallModel both(config, Dtype::f64, 2, 4);
  both.total_loss();
  both.backward();
  std::vector<std::vector<double>> sums(both.table.size());
  for (std::int64_t leaf = 0; leaf < 2; ++leaf) {
    SmallModel one(config, Dtype::f64, 1, 4);
    one.step_images = 8;
    one.fill_batch(leaf * 4);
    one.total_loss();
    one.backward();
    const std::vector<double> logits = to_doubles(one.acts.logits);
    const std::vector<double> of_both = to_doubles(both.acts.logits);
    const auto begin = of_both.begin() + leaf * static_cast<std::ptrdiff_t>(logits.size());
    EXPECT_TRUE(std::equal(logits.begin(), logits.end(), begin)) << "leaf " << leaf << " knows its neighbour";
    for (std::size_t t = 0; t < sums.size(); ++t) {
      const std::vector<double> gradient = one.gradient(t);
      if (sums[t].empty()) sums[t].resize(gradient.size());
      for (std::size_t i = 0; i < gradient.size(); ++i) sums[t][i] += gradient[i];
    }
  }
  for (std::size_t t = 0; t < sums.size(); ++t) EXPECT_EQ(sums[t], both.gradient(t)) << both.table[t].name;
}

}  // namespace
}  // namespace vitrail::testing
