// Attention of the cuda back end: what the verb cases (tests/ops/test_cpu_tokens.cpp) do not show. Every width that the
// kernels pad to, numbers of tokens around the borders of tiles, both ways of loading, and bits.

#include <cmath>

#include <gtest/gtest.h>

#include "tests/ops/leaf_parts.hpp"
#include "tests/ops/verb_tolerances.hpp"

namespace vitrail::testing {

namespace {

struct Problem {
  Shape of_q, of_k;
  OwnedTensor q, k, v, dout;
  DropoutDraw dropout;
};
struct Answer {
  OwnedTensor out, log_sum_exp, dq, dk, dv;
  [[nodiscard]] std::vector<const OwnedTensor*> all() const { return {&out, &log_sum_exp, &dq, &dk, &dv}; }
};

struct Sizes {
  std::int64_t leaves = 1, images = 1, queries = 1, keys = 1, heads = 1, width = 1;
};

/// Numbers that bf16 holds exactly, so that all back ends and dtypes begin with the same.
Problem problem(const Sizes& s, Dtype dtype, double rate = 0.0) {
  const Shape of_q{s.leaves, s.images, s.queries, s.heads, s.width};
  const Shape of_k{s.leaves, s.images, s.keys, s.heads, s.width};
  const auto numbers = [&](const Shape& shape, std::uint32_t stream) {
    return random_tensor(Dtype::bf16, shape, stream).to(dtype);
  };
  return {of_q,
          of_k,
          numbers(of_q, 1),
          numbers(of_k, 2),
          numbers(of_k, 3),
          numbers(of_q, 4),
          {.rate = rate, .seed = 5, .step = 6, .layer = 7, .first = 8}};
}

Answer solve(Ops& ops, const Problem& p) {
  const Dtype dtype = p.q.dtype();
  const Shape of_rows{p.of_q[0], p.of_q[1], p.of_q[3], p.of_q[2]};
  Answer a{OwnedTensor(dtype, p.of_q), OwnedTensor(ops.real(), of_rows), OwnedTensor(dtype, p.of_q),
           OwnedTensor(dtype, p.of_k), OwnedTensor(dtype, p.of_k)};
  ops.attention_forward(
      {.q = p.q, .k = p.k, .v = p.v, .dropout = p.dropout, .out = a.out, .log_sum_exp = a.log_sum_exp});
  ops.attention_backward({.dout = p.dout,
                          .q = p.q,
                          .k = p.k,
                          .v = p.v,
                          .dropout = p.dropout,
                          .out = a.out,
                          .log_sum_exp = a.log_sum_exp,
                          .dq = a.dq,
                          .dk = a.dk,
                          .dv = a.dv});
  return a;
}

Answer reference(const Sizes& s, double rate = 0.0) {
  return solve(*make_reference_ops(), problem(s, Dtype::f64, rate));
}

class CudaAttention : public ::testing::TestWithParam<Precision> {
 protected:
  [[nodiscard]] Problem given(const Sizes& s, double rate = 0.0) const { return problem(s, ops_->stored(), rate); }
  Answer run(const Problem& p) {
    const OnDevice here(*device_);
    return solve(*ops_, p);
  }
  [[nodiscard]] double tolerance() const {
    const Tolerance tolerance = tolerance_of("attention");
    return GetParam() == Precision::bf16 ? tolerance.bf16 : tolerance.f32;
  }
  void expect_near(const Answer& got, const Answer& expected) const {
    for (std::size_t i = 0; i < got.all().size(); ++i) {
      const double scale = std::max(1.0, expected.all()[i]->largest());
      EXPECT_LE(largest_difference(*got.all()[i], *expected.all()[i]), tolerance() * scale) << "output " << i;
    }
  }

  std::unique_ptr<Device> device_ = make_cuda_device();
  std::unique_ptr<Ops> ops_ = make_cuda_ops(*device_, GetParam());
};

INSTANTIATE_TEST_SUITE_P(All, CudaAttention, ::testing::Values(Precision::f32, Precision::bf16),
                         [](const auto& one) { return one.param == Precision::bf16 ? "bf16" : "f32"; });

void expect_same_bits(const Answer& a, const Answer& b) {
  for (std::size_t i = 0; i < a.all().size(); ++i) EXPECT_TRUE(same_bits(*a.all()[i], *b.all()[i])) << "output " << i;
}

// --- sizes -----------------------------------------------------------------------------------------------------------

TEST_P(CudaAttention, AgreesWithTheReferenceAtEveryPaddedWidthInWholeVectorsAndWithout) {
  for (std::int64_t padded = 16; padded <= 128; padded += 16) {
    for (const std::int64_t width : {padded, padded - 8, padded - 3}) {
      SCOPED_TRACE(text("width ", width));
      for (const Sizes& s : {Sizes{1, 1, 37, 50, 2, width}, Sizes{1, 1, 50, 70, 1, width}}) {
        for (const double rate : {0.0, 0.25}) expect_near(run(given(s, rate)), reference(s, rate));
      }
    }
  }
}

TEST_P(CudaAttention, AgreesWithTheReferenceAroundTheBordersOfTiles) {
  for (const std::int64_t tokens : {15, 16, 17, 31, 33, 63, 64, 65, 127, 128, 129, 197, 257}) {
    for (const std::int64_t width : {16, 24}) {
      SCOPED_TRACE(text(tokens, " tokens of width ", width));
      for (const Sizes& s : {Sizes{1, 1, tokens, tokens, 1, width}, Sizes{1, 1, 1, tokens, 1, width},
                             Sizes{1, 1, tokens, 2, 1, width}, Sizes{1, 1, tokens, 66, 1, width}}) {
        expect_near(run(given(s, 0.1)), reference(s, 0.1));
      }
    }
  }
}

TEST_P(CudaAttention, TakesAsManyTokensAsTheLargestModelsHave) {
  const Sizes s{.queries = 20, .keys = 1601, .heads = 1, .width = 16};
  expect_near(run(given(s)), reference(s));
  const Sizes turned{.queries = 1601, .keys = 20, .heads = 1, .width = 16};
  expect_near(run(given(turned)), reference(turned));
}

TEST_P(CudaAttention, OfNoKeysIsZeroAndOfNoQueriesGivesKeysNoGradient) {
  const Answer no_keys = run(given({.queries = 3, .keys = 0, .heads = 2, .width = 8}));
  EXPECT_EQ(no_keys.out.largest(), 0.0);
  EXPECT_EQ(no_keys.dq.largest(), 0.0);
  const Answer no_queries = run(given({.queries = 0, .keys = 3, .heads = 2, .width = 8}));
  EXPECT_EQ(no_queries.dk.largest(), 0.0);
  EXPECT_EQ(no_queries.dv.largest(), 0.0);
}

// exp(0 - log_sum_exp) of a padded key would be infinite.
TEST_P(CudaAttention, IsNotTouchedByPaddedRowsWhenAllScoresAreFarBelowZero) {
  for (const std::int64_t keys : {5, 70}) {
    Problem p = given({.queries = 19, .keys = keys, .heads = 1, .width = 16});
    for (std::int64_t i = 0; i < p.q.elements(); ++i) p.q.set(i, 64.0);
    for (std::int64_t i = 0; i < p.k.elements(); ++i) p.k.set(i, -4.0 + (i % 3 == 0 ? 1.0 / 32.0 : 0.0));
    Problem exact{p.of_q,   p.of_k, p.q.to(Dtype::f64), p.k.to(Dtype::f64), p.v.to(Dtype::f64), p.dout.to(Dtype::f64),
                  p.dropout};
    const Answer expected = solve(*make_reference_ops(), exact);
    ASSERT_LT(expected.log_sum_exp.get(0), -900.0);
    const Answer got = run(p);
    for (std::size_t i = 0; i < got.all().size(); ++i) {
      // Scores of a thousand are off by 1e-4 in f32.
      EXPECT_LE(largest_difference(*got.all()[i], *expected.all()[i]),
                std::max(1e-3, tolerance()) * std::max(1.0, expected.all()[i]->largest()))
          << "output " << i;
    }
  }
}

// --- bits ------------------------------------------------------------------------------------------------------------

TEST_P(CudaAttention, GivesALeafTheSameBitsAloneAndAmongOthers) {
  for (const std::int64_t width : {8, 20}) {
    const Sizes s{.leaves = 4, .images = 3, .queries = 70, .keys = 67, .heads = 2, .width = width};
    for (const double rate : {0.0, 0.3}) {
      const Problem whole = given(s, rate);
      const Answer together = run(whole);
      for (std::int64_t leaf = 0; leaf < s.leaves; ++leaf) {
        Problem one = given({1, s.images, s.queries, s.keys, s.heads, s.width}, rate);
        one.q = part(whole.q, 0, leaf);
        one.k = part(whole.k, 0, leaf);
        one.v = part(whole.v, 0, leaf);
        one.dout = part(whole.dout, 0, leaf);
        one.dropout.first += static_cast<std::uint64_t>(leaf * s.images * s.heads * s.queries * s.keys);
        const Answer alone = run(one);
        for (std::size_t i = 0; i < alone.all().size(); ++i)
          EXPECT_TRUE(same_bits(part(*together.all()[i], 0, leaf), *alone.all()[i])) << "output " << i;
      }
    }
  }
}

TEST_P(CudaAttention, GivesTheSameBitsAgain) {
  const Problem p = given({.images = 2, .queries = 130, .keys = 140, .heads = 2, .width = 32}, 0.2);
  expect_same_bits(run(p), run(p));
}

// A tensor that begins one element behind a multiple of 16 bytes is loaded number by number.
TEST_P(CudaAttention, GivesTheSameBitsWhereverItsTensorsBegin) {
  const Sizes s{.images = 2, .queries = 65, .keys = 70, .heads = 3, .width = 40};
  const Problem p = given(s, 0.2);
  const auto shifted = [](const OwnedTensor& x) {
    OwnedTensor longer(x.dtype(), {x.elements() + 1});
    for (std::int64_t i = 0; i < x.elements(); ++i) longer.set(i + 1, x.get(i));
    return longer;
  };
  OwnedTensor q = shifted(p.q), k = shifted(p.k), v = shifted(p.v), dout = shifted(p.dout);
  const Answer expected = run(p);
  OwnedTensor out = shifted(expected.out), dq = shifted(expected.dq), dk = shifted(expected.dk),
              dv = shifted(expected.dv);
  for (OwnedTensor* written : {&out, &dq, &dk, &dv}) {
    for (std::int64_t i = 0; i < written->elements(); ++i) written->set(i, std::nan(""));
  }
  OwnedTensor log_sum_exp(Dtype::f32, expected.log_sum_exp.shape());
  const auto inside = [](OwnedTensor& x, const Shape& shape) {
    return x.view().slice(1, x.elements() - 1).view(shape);
  };
  const OnDevice here(*device_);
  ops_->attention_forward({.q = inside(q, p.of_q),
                           .k = inside(k, p.of_k),
                           .v = inside(v, p.of_k),
                           .dropout = p.dropout,
                           .out = inside(out, p.of_q),
                           .log_sum_exp = log_sum_exp});
  ops_->attention_backward({.dout = inside(dout, p.of_q),
                            .q = inside(q, p.of_q),
                            .k = inside(k, p.of_k),
                            .v = inside(v, p.of_k),
                            .dropout = p.dropout,
                            .out = inside(out, p.of_q),
                            .log_sum_exp = log_sum_exp,
                            .dq = inside(dq, p.of_q),
                            .dk = inside(dk, p.of_k),
                            .dv = inside(dv, p.of_k)});
  const auto same = [](const OwnedTensor& longer, const OwnedTensor& x) {
    for (std::int64_t i = 0; i < x.elements(); ++i) {
      if (longer.get(i + 1) != x.get(i)) return false;
    }
    return std::isnan(longer.get(0));
  };
  EXPECT_TRUE(same(out, expected.out));
  EXPECT_TRUE(same_bits(log_sum_exp, expected.log_sum_exp));
  EXPECT_TRUE(same(dq, expected.dq));
  EXPECT_TRUE(same(dk, expected.dk));
  EXPECT_TRUE(same(dv, expected.dv));
}

// --- precision -------------------------------------------------------------------------------------------------------

TEST_P(CudaAttention, GivesTensorsOfTheOtherDtypeTheNumbersOfItsOwn) {
  const Sizes s{.images = 2, .queries = 20, .keys = 21, .heads = 2, .width = 12};
  const Dtype other = ops_->stored() == Dtype::bf16 ? Dtype::f32 : Dtype::bf16;
  const Answer own = run(problem(s, ops_->stored(), 0.2));
  const Answer converted = run(problem(s, other, 0.2));
  EXPECT_TRUE(same_bits(own.out.to(other), converted.out));
  EXPECT_TRUE(same_bits(own.log_sum_exp, converted.log_sum_exp));
  EXPECT_TRUE(same_bits(own.dv.to(other), converted.dv));
}

/// |sum over keys of dk| against the sum over keys of |dk|, the largest over channels.
double sum_over_keys(const Answer& a, const Problem& p) {
  double worst = 0.0;
  const std::int64_t channels = p.of_k[3] * p.of_k[4];
  for (std::int64_t c = 0; c < channels; ++c) {
    double sum = 0.0, size = 0.0;
    for (std::int64_t i = c; i < a.dk.elements(); i += channels) {
      sum += a.dk.get(i);
      size += std::abs(a.dk.get(i));
    }
    worst = std::max(worst, std::abs(sum) / size);
  }
  return worst;
}

// The gradient of the keys' bias is the sum of dk over the keys, and zero: a bias that all keys share moves all scores
// of a query alike. What is left of it is rounding.
TEST_P(CudaAttention, LeavesNextToNothingOfTheGradientOfTheKeysBias) {
  for (const double mean : {0.0, 2.0}) {  // of queries and values: then ds is small beside what it is the difference of
    Problem p = given({.images = 2, .queries = 197, .keys = 197, .heads = 1, .width = 64});
    for (OwnedTensor* x : {&p.q, &p.v}) {
      for (std::int64_t i = 0; i < x->elements(); ++i) x->set(i, x->get(i) + mean);
    }
    const double left = sum_over_keys(run(p), p);
    RecordProperty(text("left_of_mean_", mean), text(left));
    EXPECT_LE(left, GetParam() == Precision::bf16 ? 2e-3 : 1e-5) << "mean " << mean;
  }
}

}  // namespace
}  // namespace vitrail::testing
