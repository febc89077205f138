// The cpu back end against the reference, verb by verb, in both precisions; and its bits, which may depend on the shape
// of one leaf and expert alone.

#include <bit>
#include <cmath>

#include <gtest/gtest.h>

#include "tests/ops/mlp_calls.hpp"
#include "tests/ops/verb_tolerances.hpp"

namespace vitrail::testing {

namespace {

constexpr Precision kPrecisions[] = {Precision::f32, Precision::bf16};

class CpuVerb : public ::testing::TestWithParam<VerbCase> {};

TEST_P(CpuVerb, AgreesWithTheReference) {
  const std::vector<OwnedTensor> expected = GetParam().run(*make_reference_ops());
  const std::vector<OwnedTensor> got = GetParam().run(*make_cpu_ops(2));
  const std::vector<OwnedTensor> in_bf16 = GetParam().run(*make_cpu_ops(2, Precision::bf16));
  const Tolerance tolerance = tolerance_of(GetParam().name);
  const double rounding = tolerance.rounding();
  ASSERT_EQ(expected.size(), got.size());
  ASSERT_EQ(expected.size(), in_bf16.size());
  bool rounds = expected[0].elements() <= 20;  // in a few numbers it may not show
  for (std::size_t i = 0; i < got.size(); ++i) {
    const bool exact = got[i].dtype() != Dtype::f32 && got[i].dtype() != Dtype::f64;
    const double scale = exact ? 0.0 : std::max(1.0, expected[i].largest());
    EXPECT_LE(largest_difference(got[i], expected[i]), tolerance.f32 * scale)
        << "output " << i << " of " << GetParam().name;
    if (rounding == 0.0) {
      EXPECT_TRUE(same_bits(in_bf16[i], got[i])) << "bf16 output " << i << " of " << GetParam().name;
    } else {
      EXPECT_LE(largest_difference(in_bf16[i], expected[i]), rounding * scale)
          << "bf16 output " << i << " of " << GetParam().name;
      rounds = rounds || !same_bits(in_bf16[i], got[i]);
    }
  }
  EXPECT_TRUE(rounds || rounding == 0.0) << "bf16 is f32 in " << GetParam().name;
}

TEST_P(CpuVerb, HasTheSameBitsForAnyNumberOfThreads) {
  for (const Precision precision : kPrecisions) {
    if (precision == Precision::bf16 && tolerance_of(GetParam().name).rounding() == 0.0) continue;
    const std::vector<OwnedTensor> one = GetParam().run(*make_cpu_ops(1, precision));
    for (const int threads : {2, 3}) {
      const std::vector<OwnedTensor> more = GetParam().run(*make_cpu_ops(threads, precision));
      for (std::size_t i = 0; i < one.size(); ++i)
        EXPECT_TRUE(same_bits(one[i], more[i])) << "output " << i << " with " << threads << " threads";
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, CpuVerb, ::testing::ValuesIn(all_cases()),
                         [](const auto& one) { return one.param.name; });

// --- leaves and experts ----------------------------------------------------------------------------------------------

struct BlockSizes {
  std::int64_t rows, width, hidden;
};
class CpuBits : public ::testing::TestWithParam<std::tuple<BlockSizes, Precision>> {};

TEST_P(CpuBits, OfALeafDoNotDependOnTheOtherLeavesAndGradientsAreTheirTree) {
  const auto [sizes, precision] = GetParam();
  const auto ops = make_cpu_ops(2, precision);
  expect_leaves_apart(*ops, mlp_inputs(ops->stored(), {4, 2, sizes.rows, sizes.width, sizes.hidden}, true));
}

TEST_P(CpuBits, OfAnExpertDoNotDependOnTheOtherExperts) {
  const auto [sizes, precision] = GetParam();
  const auto ops = make_cpu_ops(2, precision);
  expect_experts_apart(*ops, mlp_inputs(ops->stored(), {2, 4, sizes.rows, sizes.width, sizes.hidden}, true));
}

TEST_P(CpuBits, OfAHiddenLayerAreTheSameWithoutTheRest) {
  const auto [sizes, precision] = GetParam();
  const auto ops = make_cpu_ops(2, precision);
  for (const Dtype stored : {Dtype::f32, Dtype::bf16}) {
    const MlpInputs in = mlp_inputs(stored, {2, 3, sizes.rows, sizes.width, sizes.hidden}, true);
    OwnedTensor u(stored, in.hidden_mask.shape());
    ops->mlp_forward({.x = in.x, .w1 = in.w1, .b1 = in.b1, .u = u});
    EXPECT_TRUE(same_bits(run_mlp(*ops, in).u, u)) << "kept in " << name_of(stored);
    if (!has_rows_of_u(sizes.width, sizes.hidden)) continue;
    OwnedTensor linear(stored, in.hidden_mask.shape());
    ops->linear_forward({.x = in.x, .w = in.w1, .b = in.b1, .residual = {}, .y = linear});
    EXPECT_TRUE(same_bits(linear, u)) << "of a linear layer, kept in " << name_of(stored);
  }
}

// The last three: weights that are cut in tiles, operands that are copied; of the last, that is transposed in slices
// that are not all as wide.
INSTANTIATE_TEST_SUITE_P(Shapes, CpuBits,
                         ::testing::Combine(::testing::Values(BlockSizes{7, 5, 9}, BlockSizes{432, 64, 256},
                                                              BlockSizes{1100, 16, 33}, BlockSizes{70, 512, 528},
                                                              BlockSizes{130, 256, 512}, BlockSizes{1100, 576, 128}),
                                            ::testing::ValuesIn(kPrecisions)));

TEST(CpuBits, OfALayernormAndTheEmbeddingOfALeafDoNotDependOnTheOtherLeaves) {
  const auto ops = make_cpu_ops(2);
  const std::int64_t rows = 300, width = 33;
  const auto x = random_tensor(Dtype::f32, {4, rows, width}, 1);
  const auto dy = random_tensor(Dtype::f32, {4, rows, width}, 2);
  const auto scale = random_tensor(Dtype::f32, {width}, 3);
  const auto run = [&](const OwnedTensor& some_x, const OwnedTensor& some_dy) {
    const std::int64_t leaves = some_x.shape()[0];
    OwnedTensor y(Dtype::f32, some_x.shape()), mean(Dtype::f32, {leaves, rows}), rstd(Dtype::f32, {leaves, rows}),
        dx(Dtype::f32, some_x.shape()), dscale(Dtype::f32, {width}), dbias(Dtype::f32, {width}),
        dpatches(Dtype::f32, {leaves, 30, 10, width}), dpositions(Dtype::f32, {10, width});
    ops->layernorm_forward({.x = some_x, .scale = scale, .bias = scale, .y = y, .mean = mean, .rstd = rstd});
    ops->layernorm_backward({.dy = some_dy,
                             .x = some_x,
                             .scale = scale,
                             .mean = mean,
                             .rstd = rstd,
                             .dresidual = {},
                             .dx = dx,
                             .dscale = dscale,
                             .dbias = dbias});
    ops->embed_tokens_backward({.dx = some_dy.view().view({leaves, 30, 10, width}),
                                .dpatches = dpatches,
                                .dclass_token = {},
                                .dpositions = dpositions});
    return std::vector<OwnedTensor>{y, dx, dscale, dbias, dpositions};
  };
  const auto together = run(x, dy);
  std::vector<std::vector<OwnedTensor>> alone;
  for (std::int64_t leaf = 0; leaf < 4; ++leaf) {
    alone.push_back(run(part(x, 0, leaf), part(dy, 0, leaf)));
    EXPECT_TRUE(same_bits(part(together[0], 0, leaf), alone.back()[0]));
    EXPECT_TRUE(same_bits(part(together[1], 0, leaf), alone.back()[1]));
  }
  for (std::size_t i = 2; i < together.size(); ++i)
    EXPECT_TRUE(same_bits(together[i], sum(sum(alone[0][i], alone[1][i]), sum(alone[2][i], alone[3][i]))))
        << "sum " << i;
}

TEST(CpuBits, OfAttentionWithDropoutPoolingAndMixupOfALeafDoNotDependOnTheOtherLeaves) {
  const auto ops = make_cpu_ops(2);
  const std::int64_t images = 3, queries = 5, tokens = 70, heads = 2, width = 8;
  const auto q = random_tensor(Dtype::f32, {4, images, queries, heads, width}, 1);
  const auto k = random_tensor(Dtype::f32, {4, images, tokens, heads, width}, 2);
  const auto v = random_tensor(Dtype::f32, {4, images, tokens, heads, width}, 3);
  const auto weights = random_tensor(Dtype::f32, {4, images, 2}, 4);
  const auto run = [&](std::int64_t first, std::int64_t leaves) {
    const DropoutDraw dropout{
        .rate = 0.3, .seed = 1, .first = static_cast<std::uint64_t>(first * images * heads * queries * tokens)};
    const ConstTensor some_q = q.view().slice(first, leaves), some_k = k.view().slice(first, leaves);
    const ConstTensor some_v = v.view().slice(first, leaves);
    OwnedTensor out(Dtype::f32, some_q.shape), lse(Dtype::f32, {leaves, images, heads, queries}),
        dq(Dtype::f32, some_q.shape), dk(Dtype::f32, some_k.shape), dv(Dtype::f32, some_k.shape),
        mean(Dtype::f32, {leaves * images, heads * width}), mixed(Dtype::f32, {leaves, images, tokens * heads * width});
    ops->attention_forward({.q = some_q, .k = some_k, .v = some_v, .dropout = dropout, .out = out, .log_sum_exp = lse});
    ops->attention_backward({.dout = some_q,
                             .q = some_q,
                             .k = some_k,
                             .v = some_v,
                             .dropout = dropout,
                             .out = out,
                             .log_sum_exp = lse,
                             .dq = dq,
                             .dk = dk,
                             .dv = dv});
    ops->mean_tokens_forward({.x = some_k.view({leaves * images, tokens, heads * width}), .y = mean});
    ops->mix_images({.x = some_k.view(mixed.shape()), .weights = weights.view().slice(first, leaves), .y = mixed});
    return std::vector<OwnedTensor>{out, lse, dq, dk, dv, mean, mixed};
  };
  const auto together = run(0, 4);
  for (std::int64_t leaf = 0; leaf < 4; ++leaf) {
    const auto alone = run(leaf, 1);
    for (std::size_t i = 0; i < alone.size(); ++i) {
      const std::int64_t count = alone[i].shape()[0];
      EXPECT_TRUE(same_bits(part(together[i], 0, leaf * count, count), alone[i])) << "output " << i;
    }
  }
}

// --- sealing ---------------------------------------------------------------------------------------------------------

TEST(CpuOpsSeal, LetsShapesPassThatWereSeenAndRefusesOnesThatNeedMoreMemory) {
  const auto ops = make_cpu_ops(2);
  run_mlp(*ops, mlp_inputs(Dtype::f32, {2, 2, 100, 16, 32}, true));
  ops->seal();
  run_mlp(*ops, mlp_inputs(Dtype::f32, {2, 2, 100, 16, 32}, true));
  try {
    run_mlp(*ops, mlp_inputs(Dtype::f32, {4, 2, 100, 64, 256}, true));
    FAIL() << "a larger shape was let through";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("sealed"), std::string::npos) << error.what();
  }
}

TEST(CpuOps, RefusesToWorkWithoutThreads) {
  try {
    make_cpu_ops(0);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::usage);
  }
}

// The slots of a NaN gate must stay in range, or memory is overwritten before anybody sees the NaN.
TEST(CpuRouter, SelectsDistinctExpertsEvenOfNaN) {
  const auto ops = make_cpu_ops(1);
  for (const TokenOrder order : {TokenOrder::vanilla, TokenOrder::prioritized}) {
    auto logits = random_tensor(Dtype::f32, {1, 3, 4}, 1);
    for (std::int64_t i = 4; i < 8; ++i) logits.set(i, std::nan(""));
    OwnedTensor clean(Dtype::f32, {1, 3, 4}), gates(Dtype::f32, {1, 3, 4}), selected(Dtype::i32, {1, 3, 2}),
        slot(Dtype::i32, {1, 3, 2}), gate(Dtype::f32, {1, 3, 2});
    ops->route_top_k({.logits = logits,
                      .noise = {},
                      .noise_std = 0.0,
                      .valid = {},
                      .order = order,
                      .gates_clean = clean,
                      .gates = gates,
                      .selected = selected,
                      .slot = slot,
                      .gate = gate});
    EXPECT_EQ(selected.get(2), 0.0);
    EXPECT_EQ(selected.get(3), 1.0);
    EXPECT_TRUE(std::isnan(gate.get(2)));
  }
}

}  // namespace
}  // namespace vitrail::testing
