// What bf16 rounds and what it leaves alone, in the verbs of the cpu back end.

#include <array>
#include <cmath>

#include <gtest/gtest.h>

#include "base/bf16.hpp"
#include "ops/ops.hpp"
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

TEST(CpuPrecision, AnswersWhatItWasMadeWith) {
  EXPECT_EQ(make_cpu_ops(1)->precision(), Precision::f32);
  EXPECT_EQ(make_cpu_ops(1, Precision::bf16)->precision(), Precision::bf16);
  EXPECT_EQ(make_reference_ops()->precision(), Precision::f32);
}

// q, k, v and d out are rounded, and nothing else.
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
