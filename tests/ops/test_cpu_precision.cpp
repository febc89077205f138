// What bf16 rounds and what it leaves alone, in the verbs of the cpu back end.

#include <array>
#include <cmath>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "base/bf16.hpp"
#include "ops/ops.hpp"
#include "tests/ops/mlp_calls.hpp"
#include "tests/ops/random_tensors.hpp"

namespace vitrail::testing {
namespace {

/// y, dx, dw and db of a linear layer.
std::vector<OwnedTensor> run_linear(Ops& ops, const OwnedTensor& x, const OwnedTensor& w, const OwnedTensor& dy,
                                    bool exact) {
  OwnedTensor y(Dtype::f32, dy.shape()), dx(Dtype::f32, x.shape()), dw(Dtype::f32, w.shape()),
      db(Dtype::f32, {w.shape()[0], w.shape()[2]});
  ops.linear_forward({.x = x, .w = w, .b = {}, .residual = {}, .y = y, .exact = exact});
  ops.linear_backward({.dy = dy, .x = x, .w = w, .dresidual = {}, .dx = dx, .dw = dw, .db = db, .exact = exact});
  return {y, dx, dw, db};
}

TEST(CpuPrecision, BesideItAnExactLinearLayerHasTheBitsOfF32) {
  const auto x = random_tensor(Dtype::f32, {2, 1, 300, 64}, 1);
  const auto w = random_tensor(Dtype::f32, {1, 64, 8}, 2);
  const auto dy = random_tensor(Dtype::f32, {2, 1, 300, 8}, 3);
  const auto f32 = run_linear(*make_cpu_ops(2), x, w, dy, false);
  const auto exact = run_linear(*make_cpu_ops(2, Precision::bf16), x, w, dy, true);
  const auto rounded = run_linear(*make_cpu_ops(2, Precision::bf16), x, w, dy, false);
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_TRUE(same_bits(exact[i], f32[i])) << "output " << i;
    EXPECT_GT(largest_difference(rounded[i], f32[i]), 1e-3) << "output " << i;
  }
  EXPECT_TRUE(same_bits(rounded[3], f32[3])) << "sums of gradients are not rounded";
}

/// `run` of f32 on rounded inputs and of bf16 on unrounded ones: the same but for the order of sums, and not the same
/// as without rounding, in every output.
template <class Run>
void expect_rounded_inputs(std::vector<OwnedTensor> inputs, const Run& run) {
  const auto f32 = make_cpu_ops(2);
  const std::vector<OwnedTensor> got = run(*make_cpu_ops(2, Precision::bf16), inputs);
  const std::vector<OwnedTensor> unrounded = run(*f32, inputs);
  for (OwnedTensor& x : inputs) {
    for (std::int64_t i = 0; i < x.elements(); ++i) x.set(i, round_to_bf16(x.get(i)));
  }
  const std::vector<OwnedTensor> expected = run(*f32, inputs);
  for (std::size_t i = 0; i < got.size(); ++i) {
    EXPECT_LE(largest_difference(got[i], expected[i]), 2e-6 * expected[i].largest()) << "output " << i;
    EXPECT_GT(largest_difference(got[i], unrounded[i]), 1e-3) << "output " << i;
  }
}

TEST(CpuPrecision, RoundsEveryInputOfQueriesKeysAndValues) {
  std::vector<OwnedTensor> inputs{random_tensor(Dtype::f32, {2, 150, 40}, 1)};
  for (std::uint32_t i = 0; i < 3; ++i) inputs.push_back(random_tensor(Dtype::f32, {40, 24}, 2 + i));
  for (std::uint32_t i = 0; i < 3; ++i) inputs.push_back(random_tensor(Dtype::f32, {2, 150, 24}, 5 + i));
  const auto b = random_tensor(Dtype::f32, {24}, 8);
  expect_rounded_inputs(std::move(inputs), [&](Ops& ops, const std::vector<OwnedTensor>& in) {
    std::vector<OwnedTensor> y(3, OwnedTensor(Dtype::f32, {2, 150, 24})), dw(3, OwnedTensor(Dtype::f32, {40, 24})),
        db(3, OwnedTensor(Dtype::f32, {24}));
    OwnedTensor dx(Dtype::f32, {2, 150, 40});
    ops.qkv_forward({.x = in[0],
                     .wq = in[1],
                     .wk = in[2],
                     .wv = in[3],
                     .bq = b,
                     .bk = b,
                     .bv = b,
                     .q = y[0],
                     .k = y[1],
                     .v = y[2]});
    ops.qkv_backward({.dq = in[4],
                      .dk = in[5],
                      .dv = in[6],
                      .x = in[0],
                      .wq = in[1],
                      .wk = in[2],
                      .wv = in[3],
                      .dx = dx,
                      .dwq = dw[0],
                      .dwk = dw[1],
                      .dwv = dw[2],
                      .dbq = db[0],
                      .dbk = db[1],
                      .dbv = db[2]});
    return std::vector<OwnedTensor>{y[0], y[1], y[2], dx, dw[0], dw[1], dw[2]};
  });
}

// Weights whose gradients are summed in whole, and in tiles.
TEST(CpuPrecision, RoundsInEveryProductOfAnMlp) {
  for (const auto& [rows, width, hidden] : {std::array{150, 16, 32}, std::array{20, 512, 528}}) {
    const Shape narrow{1, 1, rows, width}, wide{1, 1, rows, hidden}, in{1, width, hidden}, out{1, hidden, width};
    const auto x = random_tensor(Dtype::f32, narrow, 1), given_u = random_tensor(Dtype::f32, wide, 2);
    const auto w1 = random_tensor(Dtype::f32, in, 3), w2 = random_tensor(Dtype::f32, out, 4);
    const auto b1 = random_tensor(Dtype::f32, {1, hidden}, 5), b2 = random_tensor(Dtype::f32, {1, width}, 6);
    std::array<std::vector<OwnedTensor>, 2> outputs;
    for (const Precision precision : {Precision::f32, Precision::bf16}) {
      const auto ops = make_cpu_ops(2, precision);
      OwnedTensor u(Dtype::f32, wide), h(Dtype::f32, wide), du(Dtype::f32, wide), y(Dtype::f32, narrow),
          dx(Dtype::f32, narrow), dw1(Dtype::f32, in), dw2(Dtype::f32, out), db1(Dtype::f32, {1, hidden}),
          db2(Dtype::f32, {1, width});
      ops->mlp_forward({.x = x, .w1 = w1, .b1 = b1, .w2 = w2, .b2 = b2, .residual = {}, .u = u, .h = h, .y = y});
      ops->mlp_backward({.dy = x,
                         .x = x,
                         .u = given_u,
                         .w1 = w1,
                         .w2 = w2,
                         .h = h,
                         .du = du,
                         .dx = dx,
                         .dw1 = dw1,
                         .db1 = db1,
                         .dw2 = dw2,
                         .db2 = db2});
      outputs[precision == Precision::bf16] = {u, y, dx, dw1, db1, dw2, db2};
    }
    for (std::size_t i = 0; i < 6; ++i)
      EXPECT_GT(largest_difference(outputs[1][i], outputs[0][i]), 1e-3) << "output " << i << ", width " << width;
    EXPECT_TRUE(same_bits(outputs[1][6], outputs[0][6])) << "db2 is a sum of what comes in";
  }
}

TEST(CpuPrecision, RoundsEveryInputOfTheMixturesOfSoftMoe) {
  const Shape of_tokens{3, 50, 24}, of_slots{3, 16, 24}, of_pairs{3, 50, 16};
  expect_rounded_inputs({random_tensor(Dtype::f32, of_tokens, 1), random_tensor(Dtype::f32, of_pairs, 2),
                         random_tensor(Dtype::f32, of_slots, 3)},
                        [&](Ops& ops, const std::vector<OwnedTensor>& in) {
                          std::vector<OwnedTensor> tokens(2, OwnedTensor(Dtype::f32, of_tokens)),
                              slots(2, OwnedTensor(Dtype::f32, of_slots)), dw(2, OwnedTensor(Dtype::f32, of_pairs));
                          const OwnedTensor& x = in[0];
                          const OwnedTensor& w = in[1];
                          const OwnedTensor& o = in[2];
                          ops.mix_tokens_forward({.x = x, .w = w, .y = slots[0]});
                          ops.mix_tokens_backward({.dy = o, .x = x, .w = w, .dw = dw[0], .dx = tokens[0]});
                          ops.mix_slots_forward({.o = o, .w = w, .residual = {}, .y = tokens[1]});
                          ops.mix_slots_backward({.dy = x, .o = o, .w = w, .dw = dw[1], .d_o = slots[1]});
                          return std::vector<OwnedTensor>{tokens[0], tokens[1], slots[0], slots[1], dw[0], dw[1]};
                        });
}

TEST(CpuPrecision, AnswersWhatItWasMadeWith) {
  EXPECT_EQ(make_cpu_ops(1)->precision(), Precision::f32);
  EXPECT_EQ(make_cpu_ops(1, Precision::bf16)->precision(), Precision::bf16);
  EXPECT_EQ(make_reference_ops()->precision(), Precision::f32);
  EXPECT_EQ(make_cpu_ops(1)->stored(), Dtype::f32);
  EXPECT_EQ(make_cpu_ops(1, Precision::bf16)->stored(), Dtype::bf16);
}

// With identities for weights, h is the output, and du that of the input's gradient.
TEST(CpuPrecision, OfAGeluIsThatOfBf16) {
  constexpr std::int64_t kWidth = 64, kRows = 40;
  OwnedTensor x(Dtype::bf16, {1, 1, kRows, kWidth}), one(Dtype::f32, {1, kWidth, kWidth});
  OwnedTensor zeros(Dtype::f32, x.shape()), ones(Dtype::f32, x.shape()), none(Dtype::f32, {1, kWidth});
  for (std::int64_t i = 0; i < x.elements(); ++i) {
    x.set(i, -8.0 + 16.0 * static_cast<double>(i) / static_cast<double>(x.elements()));
    zeros.set(i, 0.0), ones.set(i, 1.0);
  }
  for (std::int64_t i = 0; i < kWidth * kWidth; ++i) one.set(i, i % (kWidth + 1) == 0 ? 1.0 : 0.0);
  for (std::int64_t i = 0; i < kWidth; ++i) none.set(i, 0.0);
  const auto ops = make_cpu_ops(1, Precision::bf16);
  const auto run = [&](const OwnedTensor& dy) {  // which is the residual, too
    return run_mlp(*ops, {x, dy, one, none, one, none, OwnedTensor()});
  };
  const OwnedTensor y = run(zeros).y, dx = run(ones).dx;
  constexpr double kBf16 = 1.0 / 256, kBefore = 4e-4;  // of rounding, and of what is rounded
  for (std::int64_t i = 0; i < x.elements(); ++i) {
    const double a = x.get(i), c = std::sqrt(2 / 3.14159265358979), z = c * (a + 0.044715 * a * a * a);
    const double s = 1 / (1 + std::exp(-2 * z)), dz = c * (1 + 3 * 0.044715 * a * a);
    EXPECT_NEAR(y.get(i), a * s, (kBf16 + kBefore) * std::abs(a * s)) << a;
    const double slope = s + 2 * a * s * (1 - s) * dz;
    EXPECT_NEAR(dx.get(i), slope, kBf16 * std::abs(slope) + kBefore * (s + std::abs(slope - s))) << a;
  }
}

// q, k, v and d out are rounded, and nothing else: of f32.
TEST(CpuPrecision, OfAttentionIsThatOfItsInputs) {
  constexpr std::int64_t kTokens = 9;
  const Shape shape{1, 1, kTokens, 1, 1};  // channels of width 1: scores = q k
  const auto q = random_tensor(Dtype::f32, shape, 1), k = random_tensor(Dtype::f32, shape, 2);
  const auto v = random_tensor(Dtype::f32, shape, 3), dout = random_tensor(Dtype::f32, shape, 4);
  OwnedTensor out(Dtype::f32, shape), lse(Dtype::f32, {1, 1, 1, kTokens});
  OwnedTensor dq(Dtype::f32, shape), dk(Dtype::f32, shape), dv(Dtype::f32, shape);
  const auto ops = make_cpu_ops(1, Precision::bf16);
  ops->attention_forward({.q = q, .k = k, .v = v, .out = out, .log_sum_exp = lse});
  ops->attention_backward(
      {.dout = dout, .q = q, .k = k, .v = v, .out = out, .log_sum_exp = lse, .dq = dq, .dk = dk, .dv = dv});

  const auto in = [](const OwnedTensor& x, std::int64_t i) { return round_to_bf16(x.get(i)); };
  std::array<double, kTokens> dk_sum{}, dv_sum{};
  for (std::int64_t i = 0; i < kTokens; ++i) {
    double top = -1e30, total = 0, mixed = 0, dq_sum = 0;
    for (std::int64_t j = 0; j < kTokens; ++j) top = std::max(top, in(q, i) * in(k, j));
    for (std::int64_t j = 0; j < kTokens; ++j) {
      const double p = std::exp(in(q, i) * in(k, j) - top);
      total += p;
      mixed += p * in(v, j);
    }
    EXPECT_NEAR(lse.get(i), top + std::log(total), 1e-6);
    EXPECT_NEAR(out.get(i), mixed / total, 1e-6);
    for (std::int64_t j = 0; j < kTokens; ++j) {
      const double p = std::exp(in(q, i) * in(k, j) - lse.get(i));
      const double ds = p * in(dout, i) * (in(v, j) - out.get(i));
      dq_sum += ds * in(k, j);
      dk_sum[static_cast<std::size_t>(j)] += ds * in(q, i);
      dv_sum[static_cast<std::size_t>(j)] += p * in(dout, i);
    }
    EXPECT_NEAR(dq.get(i), dq_sum, 1e-6);
  }
  for (std::int64_t j = 0; j < kTokens; ++j) {
    EXPECT_NEAR(dk.get(j), dk_sum[static_cast<std::size_t>(j)], 1e-6);
    EXPECT_NEAR(dv.get(j), dv_sum[static_cast<std::size_t>(j)], 1e-6);
  }
}

}  // namespace
}  // namespace vitrail::testing
