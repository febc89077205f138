// Dense layers of the reference: numbers a person can check, tensors that may be one another, the tree over leaves,
// and shapes that do not fit.

#include <cmath>

#include <gtest/gtest.h>

#include "ops/ops.hpp"
#include "tests/ops/random_tensors.hpp"

namespace vitrail::testing {
namespace {

OwnedTensor f64(Shape shape, std::uint32_t stream) { return random_tensor(Dtype::f64, shape, stream); }
OwnedTensor empty(Shape shape) { return OwnedTensor(Dtype::f64, shape); }

class ReferenceLayers : public ::testing::Test {
 protected:
  std::unique_ptr<Ops> ops_ = make_reference_ops();
};

TEST(ReferenceOps, ComputesInDoubleOrComplexAndNothingElse) {
  EXPECT_EQ(make_reference_ops()->real(), Dtype::f64);
  EXPECT_EQ(make_reference_ops(Dtype::c128)->real(), Dtype::c128);
  EXPECT_EQ(make_reference_ops()->name(), "reference");
  try {
    make_reference_ops(Dtype::f32);
    FAIL() << "f32 was accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::usage);
  }
}

// --- numbers ---------------------------------------------------------------------------------------------------------

TEST_F(ReferenceLayers, NormalizesPixelsInSinglePrecision) {
  const OwnedTensor images(Dtype::u8, {1, 1, 2, 2}, {0, 255, 128, 1});
  OwnedTensor y = empty({1, 1, 2, 2});
  ops_->normalize_images({.images = images, .y = y});
  EXPECT_EQ(y.get(0), -1.0);
  EXPECT_EQ(y.get(1), 1.0);
  EXPECT_EQ(y.get(2), static_cast<double>(128.0F / 255.0F * 2.0F - 1.0F));
  EXPECT_NE(y.get(2), 128.0 / 255.0 * 2.0 - 1.0);
}

TEST_F(ReferenceLayers, PatchesAreRowMajorAndLeaveTheBorderOut) {
  // 5 x 7 pixels of 2 channels, patches of 2 x 3: a grid of 2 x 2. Pixel value = 100 row + 10 column + channel.
  OwnedTensor images = empty({1, 5, 7, 2}), patches = empty({1, 4, 12});
  for (std::int64_t i = 0; i < images.elements(); ++i)
    images.set(i, static_cast<double>(100 * (i / 14) + 10 * (i / 2 % 7) + i % 2));
  ops_->patches_forward({.images = images, .patch_rows = 2, .patch_columns = 3, .patches = patches});
  const std::vector<double> all = patches.values();
  EXPECT_EQ(std::vector<double>(all.begin(), all.begin() + 12),
            (std::vector<double>{0, 1, 10, 11, 20, 21, 100, 101, 110, 111, 120, 121}));
  EXPECT_EQ(all[12], 30.0) << "the second patch is to the right of the first";
  EXPECT_EQ(all[24], 200.0) << "the third begins the second row";
  EXPECT_EQ(all[47], 351.0);
}

TEST_F(ReferenceLayers, TheClassTokenComesFirstAndHasAPosition) {
  const OwnedTensor patches(Dtype::f64, {1, 1, 2, 1}, {10, 20}), token(Dtype::f64, {1}, {5});
  const OwnedTensor positions(Dtype::f64, {3, 1}, {1, 2, 3});
  OwnedTensor x = empty({1, 1, 3, 1}), bare = empty({1, 1, 2, 1});
  ops_->embed_tokens_forward({.patches = patches, .class_token = token, .positions = positions, .x = x});
  EXPECT_EQ(x.values(), (std::vector<double>{6, 12, 23}));
  ops_->embed_tokens_forward({.patches = patches, .class_token = {}, .positions = {}, .x = bare});
  EXPECT_EQ(bare.values(), patches.values());
}

TEST_F(ReferenceLayers, LayernormUsesTheBiasedVarianceAndEpsilon) {
  const OwnedTensor x(Dtype::f64, {1, 2, 2}, {1, 3, 7, 7}), scale(Dtype::f64, {2}, {2, 3}),
      bias(Dtype::f64, {2}, {.5, .25});
  OwnedTensor y = empty({1, 2, 2}), mean = empty({1, 2}), rstd = empty({1, 2});
  ops_->layernorm_forward({.x = x, .scale = scale, .bias = bias, .y = y, .mean = mean, .rstd = rstd});
  EXPECT_EQ(mean.values(), (std::vector<double>{2, 7}));
  EXPECT_NEAR(rstd.get(0), 1.0 / std::sqrt(1.000001), 1e-15);
  EXPECT_NEAR(rstd.get(1), 1000.0, 1e-9);
  EXPECT_NEAR(y.get(0), -2.0 / std::sqrt(1.000001) + 0.5, 1e-15);
  EXPECT_NEAR(y.get(1), 3.0 / std::sqrt(1.000001) + 0.25, 1e-15);
  EXPECT_EQ(y.get(2), 0.5);
  ops_->layernorm_forward({.x = x, .scale = scale, .bias = {}, .y = y, .mean = mean, .rstd = rstd});
  EXPECT_NEAR(y.get(1), 3.0 / std::sqrt(1.000001), 1e-15);
}

TEST_F(ReferenceLayers, LinearGivesEveryExpertItsOwnWeights) {
  // One leaf, two experts, one row each, 2 -> 1.
  const OwnedTensor x(Dtype::f64, {1, 2, 1, 2}, {1, 2, 3, 4}), w(Dtype::f64, {2, 2, 1}, {10, 100, 1000, 10000});
  const OwnedTensor b(Dtype::f64, {2, 1}, {.5, .25}), residual(Dtype::f64, {1, 2, 1, 1}, {7, 8});
  OwnedTensor y = empty({1, 2, 1, 1});
  ops_->linear_forward({.x = x, .w = w, .b = b, .residual = residual, .y = y});
  EXPECT_EQ(y.values(), (std::vector<double>{217.5, 43008.25}));
  ops_->linear_forward({.x = x, .w = w, .b = {}, .residual = {}, .y = y});
  EXPECT_EQ(y.values(), (std::vector<double>{210, 43000}));
}

TEST_F(ReferenceLayers, MlpUsesTheTanhFormOfGelu) {
  // Identity weights: h = gelu(x), y = h. The erf form would give 0.8413447 at 1.
  const OwnedTensor x(Dtype::f64, {1, 1, 3, 1}, {1, -1, 0}), one(Dtype::f64, {1, 1, 1}, {1}),
      zero(Dtype::f64, {1, 1}, {0});
  OwnedTensor u = empty({1, 1, 3, 1}), h = empty({1, 1, 3, 1}), y = empty({1, 1, 3, 1});
  ops_->mlp_forward({.x = x, .w1 = one, .b1 = zero, .w2 = one, .b2 = zero, .residual = {}, .u = u, .h = h, .y = y});
  EXPECT_NEAR(y.get(0), 0.8411919906082768, 1e-15);
  EXPECT_NEAR(y.get(1), -0.15880800939172324, 1e-15);
  EXPECT_EQ(y.get(2), 0.0);
  const OwnedTensor mask(Dtype::f64, {1, 1, 3, 1}, {0, 2, 2});
  ops_->mlp_forward({.x = x,
                     .w1 = one,
                     .b1 = zero,
                     .w2 = one,
                     .b2 = zero,
                     .hidden_mask = mask,
                     .residual = {},
                     .u = u,
                     .h = h,
                     .y = y});
  EXPECT_EQ(y.get(0), 0.0) << "the mask multiplies what comes out of the GELU";
  EXPECT_NEAR(y.get(1), 2 * -0.15880800939172324, 1e-15);
  EXPECT_EQ(u.get(0), 1.0);
}

TEST_F(ReferenceLayers, AttentionIsTheSoftmaxWeightedMeanOfTheValues) {
  // Two tokens, one head of width 4: scores / sqrt(4) are 0 and log 3 for the first token, 0 and 0 for the second.
  const OwnedTensor q(Dtype::f64, {1, 1, 2, 1, 4}, {1, 0, 0, 0, 0, 0, 0, 0});
  const OwnedTensor k(Dtype::f64, {1, 1, 2, 1, 4}, {0, 9, 9, 9, 2 * std::log(3.0), 9, 9, 9});
  const OwnedTensor v(Dtype::f64, {1, 1, 2, 1, 4}, {4, 0, 1, 0, 8, 0, 1, 2});
  OwnedTensor out = empty({1, 1, 2, 1, 4}), lse = empty({1, 1, 1, 2});
  ops_->attention_forward({.q = q, .k = k, .v = v, .out = out, .log_sum_exp = lse});
  const double expected[] = {7, 0, 1, 1.5, 6, 0, 1, 1};
  for (std::int64_t i = 0; i < 8; ++i) EXPECT_NEAR(out.get(i), expected[i], 1e-14);
  EXPECT_NEAR(lse.get(0), std::log(4.0), 1e-15);
  EXPECT_NEAR(lse.get(1), std::log(2.0), 1e-15);
}

TEST_F(ReferenceLayers, AttentionSurvivesLargeScores) {
  const OwnedTensor q(Dtype::f64, {1, 1, 2, 1, 1}, {1e4, 1e4}), k(Dtype::f64, {1, 1, 2, 1, 1}, {1, -1});
  const OwnedTensor v(Dtype::f64, {1, 1, 2, 1, 1}, {3, 5});
  OwnedTensor out = empty({1, 1, 2, 1, 1}), lse = empty({1, 1, 1, 2});
  ops_->attention_forward({.q = q, .k = k, .v = v, .out = out, .log_sum_exp = lse});
  EXPECT_EQ(out.values(), (std::vector<double>{3, 3}));
  EXPECT_EQ(lse.values(), (std::vector<double>{1e4, 1e4}));
}

// --- tensors that may be one another ---------------------------------------------------------------------------------

TEST_F(ReferenceLayers, LayernormGradientMayReplaceItsCotangentOrItsResidual) {
  const OwnedTensor x = f64({2, 3, 5}, 1), dy = f64({2, 3, 5}, 2), dresidual = f64({2, 3, 5}, 3), scale = f64({5}, 4);
  OwnedTensor y = empty({2, 3, 5}), mean = empty({2, 3}), rstd = empty({2, 3});
  ops_->layernorm_forward({.x = x, .scale = scale, .bias = f64({5}, 5), .y = y, .mean = mean, .rstd = rstd});
  OwnedTensor dscale = empty({5}), dbias = empty({5}), dx = empty({2, 3, 5});
  const auto backward = [&](const OwnedTensor& from, const OwnedTensor& residual, OwnedTensor& to) {
    ops_->layernorm_backward({.dy = from,
                              .x = x,
                              .scale = scale,
                              .mean = mean,
                              .rstd = rstd,
                              .dresidual = residual,
                              .dx = to,
                              .dscale = dscale,
                              .dbias = dbias});
  };
  backward(dy, dresidual, dx);
  const OwnedTensor dscale_apart = dscale, dbias_apart = dbias;
  OwnedTensor over_dy = dy, over_residual = dresidual;
  backward(over_dy, dresidual, over_dy);
  EXPECT_TRUE(same_bits(over_dy, dx));
  EXPECT_TRUE(same_bits(dscale, dscale_apart));
  EXPECT_TRUE(same_bits(dbias, dbias_apart));
  backward(dy, over_residual, over_residual);
  EXPECT_TRUE(same_bits(over_residual, dx));
}

TEST_F(ReferenceLayers, LinearMayReplaceItsResiduals) {
  const OwnedTensor x = f64({2, 3, 2, 4}, 1), w = f64({3, 4, 5}, 2), b = f64({3, 5}, 3),
                    residual = f64({2, 3, 2, 5}, 4);
  OwnedTensor y = empty({2, 3, 2, 5}), over = residual;
  ops_->linear_forward({.x = x, .w = w, .b = b, .residual = residual, .y = y});
  ops_->linear_forward({.x = x, .w = w, .b = b, .residual = over, .y = over});
  EXPECT_TRUE(same_bits(over, y));
  OwnedTensor dresidual = f64({2, 3, 2, 4}, 5), dx = empty({2, 3, 2, 4}), dw = empty({3, 4, 5}), db = empty({3, 5});
  ops_->linear_backward({.dy = y, .x = x, .w = w, .dresidual = dresidual, .dx = dx, .dw = dw, .db = db});
  ops_->linear_backward({.dy = y, .x = x, .w = w, .dresidual = dresidual, .dx = dresidual, .dw = dw, .db = db});
  EXPECT_TRUE(same_bits(dresidual, dx));
}

TEST_F(ReferenceLayers, LinearBackwardLeavesOutWhatIsNotAskedFor) {
  const OwnedTensor x = f64({2, 3, 2, 4}, 1), w = f64({3, 4, 5}, 2), dy = f64({2, 3, 2, 5}, 3);
  OwnedTensor dx = empty({2, 3, 2, 4}), dw = empty({3, 4, 5}), db = empty({3, 5}), alone = empty({3, 4, 5});
  ops_->linear_backward({.dy = dy, .x = x, .w = w, .dresidual = {}, .dx = dx, .dw = dw, .db = db});
  ops_->linear_backward({.dy = dy, .x = x, .w = w, .dresidual = {}, .dx = {}, .dw = alone, .db = {}});
  EXPECT_TRUE(same_bits(alone, dw));
}

TEST_F(ReferenceLayers, MlpMayReplaceItsResidual) {
  const OwnedTensor x = f64({1, 2, 3, 4}, 1), w1 = f64({2, 4, 5}, 2), b1 = f64({2, 5}, 3), w2 = f64({2, 5, 4}, 4);
  const OwnedTensor b2 = f64({2, 4}, 5), residual = f64({1, 2, 3, 4}, 6);
  OwnedTensor u = empty({1, 2, 3, 5}), h = empty({1, 2, 3, 5}), y = empty({1, 2, 3, 4}), over = residual;
  ops_->mlp_forward({.x = x, .w1 = w1, .b1 = b1, .w2 = w2, .b2 = b2, .residual = residual, .u = u, .h = h, .y = y});
  ops_->mlp_forward({.x = x, .w1 = w1, .b1 = b1, .w2 = w2, .b2 = b2, .residual = over, .u = u, .h = h, .y = over});
  EXPECT_TRUE(same_bits(over, y));
}

TEST_F(ReferenceLayers, TanhWorksInPlace) {
  const OwnedTensor x = f64({9}, 1), dy = f64({9}, 2);
  OwnedTensor y = empty({9}), dx = empty({9}), over = x, d_over = dy;
  ops_->tanh_forward({.x = x, .y = y});
  ops_->tanh_forward({.x = over, .y = over});
  EXPECT_TRUE(same_bits(over, y));
  ops_->tanh_backward({.dy = dy, .y = y, .dx = dx});
  ops_->tanh_backward({.dy = d_over, .y = y, .dx = d_over});
  EXPECT_TRUE(same_bits(d_over, dx));
}

TEST_F(ReferenceLayers, RowsMayReplaceTheirResidualsAndExpertOutputsTheirGradients) {
  const OwnedTensor row(Dtype::i32, {3, 2}, {0, 3, -1, 1, 2, -1}), source(Dtype::i32, {5}, {0, 3, 4, 1, -1});
  const OwnedTensor o = f64({5, 4}, 1), gate = f64({3, 2}, 2), residual = f64({3, 4}, 3), dy = f64({3, 4}, 4);
  OwnedTensor y = empty({3, 4}), over = residual;
  ops_->combine_rows_forward({.o = o, .row = row, .gate = gate, .residual = residual, .y = y});
  ops_->combine_rows_forward({.o = o, .row = row, .gate = gate, .residual = over, .y = over});
  EXPECT_TRUE(same_bits(over, y));
  over = residual;
  ops_->gather_rows_backward({.dy = o, .row = row, .dresidual = residual, .dx = y});
  ops_->gather_rows_backward({.dy = o, .row = row, .dresidual = over, .dx = over});
  EXPECT_TRUE(same_bits(over, y));
  OwnedTensor d_o = empty({5, 4}), dgate = empty({3, 2}), dgate_over = empty({3, 2}), o_over = o;
  ops_->combine_rows_backward(
      {.dy = dy, .o = o, .row = row, .source = source, .gate = gate, .d_o = d_o, .dgate = dgate});
  ops_->combine_rows_backward(
      {.dy = dy, .o = o_over, .row = row, .source = source, .gate = gate, .d_o = o_over, .dgate = dgate_over});
  EXPECT_TRUE(same_bits(o_over, d_o));
  EXPECT_TRUE(same_bits(dgate_over, dgate));
}

// --- the tree over leaves --------------------------------------------------------------------------------------------

class ReferenceTree : public ReferenceLayers {
 protected:
  // Numbers with all digits of a double, so that sums are rounded.
  static OwnedTensor f64(Shape shape, std::uint32_t stream) {
    OwnedTensor tensor = random_tensor(Dtype::f64, shape, stream);
    for (std::int64_t i = 0; i < tensor.elements(); ++i) tensor.set(i, tensor.get(i) / 3.0);
    return tensor;
  }
  static OwnedTensor sum(const OwnedTensor& a, const OwnedTensor& b) {
    OwnedTensor result = a;
    for (std::int64_t i = 0; i < a.elements(); ++i) result.set(i, a.get(i) + b.get(i));
    return result;
  }
  // run(first leaf, leaves) gives parameter gradients. Four leaves are (0 + 1) + (2 + 3), to the bit.
  template <class Run>
  static void expect_tree(const Run& run) {
    const std::vector<OwnedTensor> whole = run(0, 4);
    std::vector<std::vector<OwnedTensor>> leaf;
    for (std::int64_t i = 0; i < 4; ++i) leaf.push_back(run(i, 1));
    bool in_order_differs = false;
    for (std::size_t p = 0; p < whole.size(); ++p) {
      EXPECT_TRUE(same_bits(whole[p], sum(sum(leaf[0][p], leaf[1][p]), sum(leaf[2][p], leaf[3][p])))) << "output " << p;
      const OwnedTensor in_order = sum(sum(sum(leaf[0][p], leaf[1][p]), leaf[2][p]), leaf[3][p]);
      in_order_differs = in_order_differs || !same_bits(whole[p], in_order);
    }
    EXPECT_TRUE(in_order_differs) << "these numbers cannot tell a tree from a running sum";
  }
};

TEST_F(ReferenceTree, LinearBackwardAddsLeavesByTheTree) {
  const OwnedTensor x = f64({4, 3, 5, 4}, 1), w = f64({3, 4, 5}, 2), dy = f64({4, 3, 5, 5}, 3);
  expect_tree([&](std::int64_t first, std::int64_t leaves) {
    std::vector<OwnedTensor> d{empty({3, 4, 5}), empty({3, 5})};
    ops_->linear_backward({.dy = dy.view().slice(first, leaves),
                           .x = x.view().slice(first, leaves),
                           .w = w,
                           .dresidual = {},
                           .dx = {},
                           .dw = d[0],
                           .db = d[1]});
    return d;
  });
}

TEST_F(ReferenceTree, MlpBackwardAddsLeavesByTheTree) {
  const OwnedTensor x = f64({4, 2, 5, 4}, 1), w1 = f64({2, 4, 6}, 2), w2 = f64({2, 6, 4}, 3), u = f64({4, 2, 5, 6}, 4);
  const OwnedTensor dy = f64({4, 2, 5, 4}, 5);
  expect_tree([&](std::int64_t first, std::int64_t leaves) {
    std::vector<OwnedTensor> d{empty({2, 4, 6}), empty({2, 6}), empty({2, 6, 4}), empty({2, 4})};
    OwnedTensor h = empty({leaves, 2, 5, 6}), du = h, dx = empty({leaves, 2, 5, 4});
    ops_->mlp_backward({.dy = dy.view().slice(first, leaves),
                        .x = x.view().slice(first, leaves),
                        .u = u.view().slice(first, leaves),
                        .w1 = w1,
                        .w2 = w2,
                        .h = h,
                        .du = du,
                        .dx = dx,
                        .dw1 = d[0],
                        .db1 = d[1],
                        .dw2 = d[2],
                        .db2 = d[3]});
    return d;
  });
}

TEST_F(ReferenceTree, QkvBackwardAddsLeavesByTheTree) {
  const OwnedTensor x = f64({4, 5, 3}, 1), dq = f64({4, 5, 4}, 2), dk = f64({4, 5, 4}, 3), dv = f64({4, 5, 4}, 4);
  const OwnedTensor w = f64({3, 4}, 5);
  expect_tree([&](std::int64_t first, std::int64_t leaves) {
    std::vector<OwnedTensor> d{empty({3, 4}), empty({3, 4}), empty({3, 4}), empty({4}), empty({4}), empty({4})};
    OwnedTensor dx = empty({leaves, 5, 3});
    ops_->qkv_backward({.dq = dq.view().slice(first, leaves),
                        .dk = dk.view().slice(first, leaves),
                        .dv = dv.view().slice(first, leaves),
                        .x = x.view().slice(first, leaves),
                        .wq = w,
                        .wk = w,
                        .wv = w,
                        .dx = dx,
                        .dwq = d[0],
                        .dwk = d[1],
                        .dwv = d[2],
                        .dbq = d[3],
                        .dbk = d[4],
                        .dbv = d[5]});
    return d;
  });
}

TEST_F(ReferenceTree, LayernormBackwardAddsLeavesByTheTree) {
  const OwnedTensor x = f64({4, 5, 6}, 1), dy = f64({4, 5, 6}, 2), scale = f64({6}, 3);
  const OwnedTensor mean = f64({4, 5}, 4), rstd = f64({4, 5}, 5);
  expect_tree([&](std::int64_t first, std::int64_t leaves) {
    std::vector<OwnedTensor> d{empty({6}), empty({6})};
    OwnedTensor dx = empty({leaves, 5, 6});
    ops_->layernorm_backward({.dy = dy.view().slice(first, leaves),
                              .x = x.view().slice(first, leaves),
                              .scale = scale,
                              .mean = mean.view().slice(first, leaves),
                              .rstd = rstd.view().slice(first, leaves),
                              .dresidual = {},
                              .dx = dx,
                              .dscale = d[0],
                              .dbias = d[1]});
    return d;
  });
}

TEST_F(ReferenceTree, EmbedTokensBackwardAddsLeavesByTheTree) {
  const OwnedTensor dx = f64({4, 3, 4, 5}, 1);
  expect_tree([&](std::int64_t first, std::int64_t leaves) {
    std::vector<OwnedTensor> d{empty({5}), empty({4, 5})};
    OwnedTensor dpatches = empty({leaves, 3, 3, 5});
    ops_->embed_tokens_backward(
        {.dx = dx.view().slice(first, leaves), .dpatches = dpatches, .dclass_token = d[0], .dpositions = d[1]});
    return d;
  });
}

TEST_F(ReferenceTree, ActivationGradientsOfALeafDoNotDependOnItsNeighbours) {
  const OwnedTensor x = f64({4, 3, 5, 4}, 1), w = f64({3, 4, 5}, 2), dy = f64({4, 3, 5, 5}, 3);
  OwnedTensor dw = empty({3, 4, 5}), whole = empty({4, 3, 5, 4}), parts = empty({4, 3, 5, 4});
  ops_->linear_backward({.dy = dy, .x = x, .w = w, .dresidual = {}, .dx = whole, .dw = dw, .db = {}});
  for (std::int64_t leaf = 0; leaf < 4; ++leaf) {
    ops_->linear_backward({.dy = dy.view().slice(leaf, 1),
                           .x = x.view().slice(leaf, 1),
                           .w = w,
                           .dresidual = {},
                           .dx = parts.view().slice(leaf, 1),
                           .dw = dw,
                           .db = {}});
  }
  EXPECT_TRUE(same_bits(whole, parts));
}

// --- shapes that do not fit ------------------------------------------------------------------------------------------

template <class Call>
std::string message_of(const Call& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST_F(ReferenceLayers, AWrongShapeIsAnErrorThatNamesVerbFieldAndShape) {
  const OwnedTensor x = f64({1, 2, 5}, 1), scale = f64({5}, 2), bias = f64({4}, 3);
  OwnedTensor y = empty({1, 2, 5}), mean = empty({1, 2}), rstd = empty({1, 2});
  const std::string message = message_of(
      [&] { ops_->layernorm_forward({.x = x, .scale = scale, .bias = bias, .y = y, .mean = mean, .rstd = rstd}); });
  for (const char* part : {"layernorm_forward", "bias", "[4]", "D = 5"})
    EXPECT_NE(message.find(part), std::string::npos) << part << " in: " << message;
}

TEST_F(ReferenceLayers, AMissingTensorIsAnError) {
  OwnedTensor y = empty({3});
  const std::string message = message_of([&] { ops_->tanh_forward({.x = {}, .y = y}); });
  EXPECT_NE(message.find("tanh_forward"), std::string::npos) << message;
  EXPECT_NE(message.find("y"), std::string::npos) << message;
}

TEST_F(ReferenceLayers, ADtypeThatIsNotTheBackEndsIsAnError) {
  const OwnedTensor single(Dtype::f32, {3}, {1, 2, 3});
  OwnedTensor y = empty({3}), single_y(Dtype::f32, {3});
  EXPECT_NE(message_of([&] { ops_->tanh_forward({.x = single, .y = y}); }).find("f64"), std::string::npos);
  EXPECT_NE(message_of([&] { ops_->tanh_forward({.x = single, .y = single_y}); }).find("f32"), std::string::npos);
}

TEST_F(ReferenceLayers, LeavesOfAGradientMustBeAPowerOfTwo) {
  const OwnedTensor x = f64({3, 1, 2, 2}, 1), w = f64({1, 2, 2}, 2);
  OwnedTensor dw = empty({1, 2, 2});
  const std::string message = message_of(
      [&] { ops_->linear_backward({.dy = x, .x = x, .w = w, .dresidual = {}, .dx = {}, .dw = dw, .db = {}}); });
  EXPECT_NE(message.find("power of two"), std::string::npos) << message;
}

TEST_F(ReferenceLayers, NoRowsGiveZeroGradients) {
  OwnedTensor dw = empty({1, 2, 2}), db = empty({1, 2});
  const OwnedTensor none = empty({2, 1, 0, 2}), w = f64({1, 2, 2}, 1);
  ops_->linear_backward({.dy = none, .x = none, .w = w, .dresidual = {}, .dx = {}, .dw = dw, .db = db});
  EXPECT_EQ(dw.values(), (std::vector<double>(4, 0.0)));
  EXPECT_EQ(db.values(), (std::vector<double>(2, 0.0)));
}

}  // namespace
}  // namespace vitrail::testing
