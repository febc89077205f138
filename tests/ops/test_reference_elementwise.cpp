// Dropout, bfloat16, mixup, pooling and running averages of the reference: numbers a person can check.

#include <cmath>
#include <set>

#include "ops/dropout_mask.hpp"
#include "tests/ops/gradient_check.hpp"

namespace vitrail::testing {
namespace {

OwnedTensor f64(Shape shape, std::uint32_t stream) { return random_tensor(Dtype::f64, shape, stream); }
OwnedTensor empty(Shape shape) { return OwnedTensor(Dtype::f64, shape); }

class ReferenceElementwise : public ::testing::Test {
 protected:
  std::unique_ptr<Ops> ops_ = make_reference_ops();
};

TEST_F(ReferenceElementwise, DropoutMultipliesByTheFactorOfTheIndex) {
  const DropoutDraw draw{.rate = 0.5, .seed = 3, .step = 4, .layer = 5, .first = 6};
  const OwnedTensor x = f64({50}, 1), residual = f64({50}, 2);
  OwnedTensor y = empty({50}), mask = empty({50}), both = empty({50}), over_x = x, over_residual = residual;
  ops_->dropout({.x = x, .residual = {}, .draw = draw, .y = y});
  ops_->dropout({.x = {}, .residual = {}, .draw = draw, .y = mask});
  ops_->dropout({.x = x, .residual = residual, .draw = draw, .y = both});
  ops_->dropout({.x = over_x, .residual = residual, .draw = draw, .y = over_x});
  ops_->dropout({.x = x, .residual = over_residual, .draw = draw, .y = over_residual});
  bool kept = false, dropped = false;
  for (std::int64_t i = 0; i < 50; ++i) {
    const double factor = DropoutMask(draw).factor(6 + static_cast<std::uint64_t>(i));
    kept = kept || factor == 2.0;
    dropped = dropped || factor == 0.0;
    EXPECT_EQ(mask.get(i), factor);
    EXPECT_EQ(y.get(i), factor * x.get(i));
    EXPECT_EQ(both.get(i), residual.get(i) + factor * x.get(i));
  }
  EXPECT_TRUE(kept && dropped);
  EXPECT_TRUE(same_bits(over_x, both));
  EXPECT_TRUE(same_bits(over_residual, both));
}

TEST_F(ReferenceElementwise, DropoutOfRateZeroIsTheSum) {
  const OwnedTensor x(Dtype::f64, {2}, {1, 2}), residual(Dtype::f64, {2}, {10, 20});
  OwnedTensor y = empty({2});
  ops_->dropout({.x = x, .residual = residual, .draw = {}, .y = y});
  EXPECT_EQ(y.values(), (std::vector<double>{11, 22}));
}

// Stochastic depth: `share` elements of a sample live or die together.
TEST_F(ReferenceElementwise, DropoutSharesADecision) {
  OwnedTensor y = empty({300});
  ops_->dropout({.x = {}, .residual = {}, .draw = {.rate = 0.5, .seed = 1, .share = 30}, .y = y});
  std::set<double> values;
  for (std::int64_t i = 0; i < 300; ++i) {
    EXPECT_EQ(y.get(i), y.get(i / 30 * 30)) << "element " << i;
    values.insert(y.get(i));
  }
  EXPECT_EQ(values, (std::set<double>{0, 2}));
}

TEST_F(ReferenceElementwise, DropoutRefusesARateOfOneAndIndicesThatOverlap) {
  OwnedTensor y = empty({4});
  for (const DropoutDraw& draw :
       {DropoutDraw{.rate = 1.0}, DropoutDraw{.rate = -0.1}, DropoutDraw{.rate = std::nan("")},
        DropoutDraw{.rate = 0.1, .run = 4, .stride = 3}, DropoutDraw{.rate = 0.1, .share = 0}}) {
    EXPECT_THROW(ops_->dropout({.x = {}, .residual = {}, .draw = draw, .y = y}), Error);
  }
}

// Two equal keys have probabilities 1/2 and 1/2, which a dropout of 1/2 makes 1 or 0.
TEST_F(ReferenceElementwise, AttentionDropsProbabilitiesAfterTheSoftmax) {
  const DropoutDraw draw{.rate = 0.5, .seed = 1, .step = 2, .layer = 3, .first = 40};
  const std::int64_t images = 3, queries = 4, keys = 2, heads = 2;
  OwnedTensor q = empty({1, images, queries, heads, 1}), k = empty({1, images, keys, heads, 1}), v = k;
  for (std::int64_t i = 0; i < q.elements(); ++i) q.set(i, 0.0);
  for (std::int64_t i = 0; i < k.elements(); ++i) k.set(i, 1.0), v.set(i, i / heads % keys == 0 ? 1.0 : 100.0);
  OwnedTensor out = empty(q.shape()), lse = empty({1, images, heads, queries});
  ops_->attention_forward({.q = q, .k = k, .v = v, .dropout = draw, .out = out, .log_sum_exp = lse});
  std::uint64_t index = 40;
  for (std::int64_t image = 0; image < images; ++image) {
    for (std::int64_t head = 0; head < heads; ++head) {
      for (std::int64_t query = 0; query < queries; ++query, index += keys) {
        const double expected =
            0.5 * DropoutMask(draw).factor(index) * 1.0 + 0.5 * DropoutMask(draw).factor(index + 1) * 100.0;
        EXPECT_NEAR(out.get((image * queries + query) * heads + head), expected, 1e-12);
        EXPECT_NEAR(lse.get((image * heads + head) * queries + query), std::log(2.0), 1e-15);
      }
    }
  }
}

TEST_F(ReferenceElementwise, Bfloat16OfADoubleIsRoundedOnceAndComesBackWithItsResidual) {
  const OwnedTensor x(Dtype::f64, {4}, {-2.5, 1.0 + 0x1p-8, 1.0 + 0x1p-8 + 0x1p-40, 0.1});
  OwnedTensor rounded(Dtype::bf16, {4}), y = empty({4});
  ops_->to_bf16({.x = x, .y = rounded});
  EXPECT_EQ(rounded.values(), (std::vector<double>{-2.5, 1.0, 1.0078125, 0.10009765625}));
  ops_->from_bf16({.x = rounded, .residual = {}, .y = y});
  EXPECT_EQ(y.values(), rounded.values());
  OwnedTensor over = x;
  ops_->from_bf16({.x = rounded, .residual = over, .y = over});
  EXPECT_EQ(over.get(0), -5.0);
  EXPECT_EQ(over.get(1), 2.0 + 0x1p-8);
}

TEST_F(ReferenceElementwise, MixupTakesTheImagesThatFollowInTheLeaf) {
  const OwnedTensor x(Dtype::f64, {2, 3, 1}, {1, 10, 100, 2, 20, 200});
  const OwnedTensor weights(Dtype::f64, {2, 3, 2}, {.75, .25, .5, .5, 1, 0, .75, .25, .5, .5, .875, .125});
  OwnedTensor y = empty({2, 3, 1});
  ops_->mix_images({.x = x, .weights = weights, .y = y});
  EXPECT_EQ(y.values(), (std::vector<double>{3.25, 55, 100, 6.5, 110, 175.25}));
}

TEST_F(ReferenceElementwise, MeanTokensIsTheMeanOverTheTokensOfAnImage) {
  const OwnedTensor x(Dtype::f64, {2, 2, 2}, {1, 2, 3, 6, 10, 20, 30, 60});
  OwnedTensor y = empty({2, 2}), dx = empty({2, 2, 2});
  ops_->mean_tokens_forward({.x = x, .y = y});
  EXPECT_EQ(y.values(), (std::vector<double>{2, 4, 20, 40}));
  ops_->mean_tokens_backward({.dy = y, .dx = dx});
  EXPECT_EQ(dx.values(), (std::vector<double>{1, 2, 1, 2, 10, 20, 10, 20}));
}

TEST_F(ReferenceElementwise, RunningAverageKeepsTheDecayAndTakesTheRest) {
  const OwnedTensor x(Dtype::f64, {2}, {8, -4});
  OwnedTensor y(Dtype::f64, {2}, {16, 4});
  ops_->running_average({.x = x, .decay = 0.75, .y = y});
  EXPECT_EQ(y.values(), (std::vector<double>{14, 2}));
}

TEST(ReferenceGradient, DropoutOfGradientsIsTheDerivative) {
  const DropoutDraw draw{.rate = 0.3, .seed = 9, .step = 1, .layer = 2, .first = 5, .run = 3, .stride = 7, .share = 2};
  GradientCase test;
  test.inputs["x"] = f64({23}, 1);
  test.inputs["residual"] = f64({23}, 2);
  test.forward = [=](Ops& ops, Tensors in) {
    Tensors out;
    out["y"] = OwnedTensor(ops.real(), {23});
    ops.dropout({.x = in["x"], .residual = in["residual"], .draw = draw, .y = out["y"]});
    return out;
  };
  test.backward = [=](Ops& ops, const Tensors&, const Tensors&, Tensors cotangent) {
    Tensors gradient;
    gradient["x"] = empty({23});
    gradient["residual"] = cotangent["y"];
    ops.dropout({.x = cotangent["y"], .residual = {}, .draw = draw, .y = gradient["x"]});
    return gradient;
  };
  check_gradients(test);
}

TEST(ReferenceGradient, MeanTokensBackwardIsTheDerivative) {
  GradientCase test;
  test.inputs["x"] = f64({3, 4, 2}, 1);
  test.forward = [](Ops& ops, Tensors in) {
    Tensors out;
    out["y"] = OwnedTensor(ops.real(), {3, 2});
    ops.mean_tokens_forward({.x = in["x"], .y = out["y"]});
    return out;
  };
  test.backward = [](Ops& ops, const Tensors&, const Tensors&, Tensors cotangent) {
    Tensors gradient;
    gradient["x"] = empty({3, 4, 2});
    ops.mean_tokens_backward({.dy = cotangent["y"], .dx = gradient["x"]});
    return gradient;
  };
  check_gradients(test);
}

}  // namespace
}  // namespace vitrail::testing
