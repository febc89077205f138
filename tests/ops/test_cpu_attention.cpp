// Attention of the cpu back end: what the verb cases (test_cpu_tokens.cpp) do not show. Widths and numbers of tokens
// around the borders of tiles and groups of heads, `stored` tensors in bf16, and bits.

#include <cmath>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "ops/cpu/cpu_isa.hpp"
#include "tests/errors.hpp"
#include "tests/ops/leaf_parts.hpp"
#include "tests/ops/verb_tolerances.hpp"

namespace vitrail::testing {
namespace {

struct Sizes {
  std::int64_t leaves = 1, images = 1, queries = 1, keys = 1, heads = 1, width = 1;
};
struct Problem {
  Shape of_q, of_k;
  OwnedTensor q, k, v, dout;
  DropoutDraw dropout;
};
struct Answer {
  OwnedTensor out, log_sum_exp, dq, dk, dv;
  [[nodiscard]] std::vector<const OwnedTensor*> all() const { return {&out, &log_sum_exp, &dq, &dk, &dv}; }
};

/// Numbers that bf16 holds exactly: the same in every dtype.
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
Problem converted(const Problem& p, Dtype dtype) {
  return {p.of_q, p.of_k, p.q.to(dtype), p.k.to(dtype), p.v.to(dtype), p.dout.to(dtype), p.dropout};
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

/// Both dtypes against the reference, each within a tolerance of the largest entry.
void expect_near_the_reference(const Problem& p, double tolerance, double bf16_tolerance) {
  const Answer expected = solve(*make_reference_ops(), converted(p, Dtype::f64));
  const auto ops = make_cpu_ops(2, Precision::bf16);
  for (const Dtype dtype : {Dtype::f32, Dtype::bf16}) {
    const Answer got = solve(*ops, converted(p, dtype));
    for (std::size_t i = 0; i < got.all().size(); ++i) {
      const double of_output = got.all()[i]->dtype() == Dtype::bf16 ? bf16_tolerance : tolerance;
      EXPECT_LE(largest_difference(*got.all()[i], *expected.all()[i]),
                of_output * std::max(1.0, expected.all()[i]->largest()))
          << "output " << i << " in " << name_of(dtype);
    }
  }
}
void expect_near_the_reference(const Sizes& s, double rate = 0.0) {
  // bf16 is rounded to by 1/256 of a number at most; twice, if probabilities and their gradients are, too.
  expect_near_the_reference(problem(s, Dtype::f32, rate), tolerance_of("attention").f32, 1.0 / 128);
}

// --- sizes -----------------------------------------------------------------------------------------------------------

TEST(CpuAttention, AgreesWithTheReferenceAtEveryWidth) {
  for (const std::int64_t width : {1, 2, 3, 4, 5, 7, 8, 9, 12, 15, 16, 17, 24, 32, 33, 48, 63, 64, 72, 80, 88, 128}) {
    SCOPED_TRACE(text("width ", width));
    for (const std::int64_t heads : {2, 4, 8}) {
      for (const double rate : {0.0, 0.25})
        expect_near_the_reference({.queries = 21, .keys = 26, .heads = heads, .width = width}, rate);
    }
  }
}

TEST(CpuAttention, AgreesWithTheReferenceAroundTheBordersOfTiles) {
  for (const std::int64_t tokens : {15, 16, 17, 31, 33, 50, 63, 64, 65, 127, 128, 129, 197, 257}) {
    for (const std::int64_t width : {16, 24}) {
      SCOPED_TRACE(text(tokens, " tokens of width ", width));
      for (const Sizes& s : {Sizes{1, 1, tokens, tokens, 4, width}, Sizes{1, 1, 1, tokens, 4, width},
                             Sizes{1, 1, tokens, 2, 1, width}, Sizes{1, 1, tokens, 66, 1, width}})
        expect_near_the_reference(s, 0.1);
    }
  }
}

TEST(CpuAttention, TakesAsManyTokensAsTheLargestModelsHave) {
  for (const std::int64_t heads : {1, 4}) {
    expect_near_the_reference({.queries = 20, .keys = 1601, .heads = heads, .width = 16});
    expect_near_the_reference({.queries = 1601, .keys = 20, .heads = heads, .width = 16});
  }
}

TEST(CpuAttention, OfNoKeysIsZeroAndOfNoQueriesGivesKeysNoGradient) {
  for (const std::int64_t heads : {2, 4}) {
    const auto ops = make_cpu_ops(1);
    const Answer no_keys = solve(*ops, problem({.queries = 3, .keys = 0, .heads = heads, .width = 8}, Dtype::f32));
    EXPECT_EQ(no_keys.out.largest(), 0.0);
    EXPECT_EQ(no_keys.dq.largest(), 0.0);
    const Answer no_queries = solve(*ops, problem({.queries = 0, .keys = 3, .heads = heads, .width = 8}, Dtype::f32));
    EXPECT_EQ(no_queries.dk.largest(), 0.0);
    EXPECT_EQ(no_queries.dv.largest(), 0.0);
  }
}

// exp(0 - log_sum_exp) of a padded query or key would be infinite.
TEST(CpuAttention, IsNotTouchedByPaddedRowsWhenAllScoresAreFarBelowZero) {
  for (const std::int64_t heads : {1, 4}) {
    Problem p = problem({.queries = 19, .keys = 70, .heads = heads, .width = 16}, Dtype::f32);
    for (std::int64_t i = 0; i < p.q.elements(); ++i) p.q.set(i, 64.0);
    for (std::int64_t i = 0; i < p.k.elements(); ++i) p.k.set(i, -4.0 + (i % 3 == 0 ? 1.0 / 32.0 : 0.0));
    expect_near_the_reference(p, 1e-3, 1.0 / 128);  // scores of a thousand are off by 1e-4 in f32
  }
}

// A key that is e^-100 of the others has no part in anything, and no exponent runs over.
TEST(CpuAttention, KnowsNothingOfKeysThatAreFarBelowTheOthers) {
  Problem p = problem({.queries = 3, .keys = 9, .heads = 1, .width = 4}, Dtype::f32);
  for (std::int64_t i = 0; i < p.q.elements(); ++i) p.q.set(i, 1.0);
  for (std::int64_t i = 0; i < 4; ++i) p.k.set(i, -1000.0), p.v.set(i, 1e20);
  const auto ops = make_cpu_ops(1);
  const Answer got = solve(*ops, p);
  Problem rest = problem({.queries = 3, .keys = 8, .heads = 1, .width = 4}, Dtype::f32);
  for (std::int64_t i = 0; i < rest.k.elements(); ++i) rest.k.set(i, p.k.get(i + 4)), rest.v.set(i, p.v.get(i + 4));
  for (std::int64_t i = 0; i < rest.q.elements(); ++i) rest.q.set(i, 1.0), rest.dout.set(i, p.dout.get(i));
  const Answer expected = solve(*ops, rest);
  EXPECT_LE(largest_difference(got.log_sum_exp, expected.log_sum_exp), 1e-6);
  for (std::int64_t i = 0; i < got.out.elements(); ++i) EXPECT_NEAR(got.out.get(i), expected.out.get(i), 1e-6);
}

// --- bits ------------------------------------------------------------------------------------------------------------

// Even widths only where the machine does not multiply bf16.
TEST(CpuAttention, OnBf16TensorsIsComputedInF32AndRoundedOnce) {
  for (const Sizes& s : {Sizes{1, 2, 50, 50, 8, 8}, Sizes{1, 2, 50, 50, 8, 7}, Sizes{1, 1, 33, 40, 2, 21},
                         Sizes{2, 1, 70, 65, 4, 6}, Sizes{2, 1, 70, 65, 4, 5}, Sizes{1, 1, 66, 50, 3, 64},
                         Sizes{1, 1, 66, 50, 3, 63}, Sizes{1, 1, 20, 20, 2, 88}}) {
    if (s.width % 2 == 0 && has_bf16_instructions()) continue;
    SCOPED_TRACE(text(s.queries, " queries of width ", s.width));
    for (const double rate : {0.0, 0.3}) {
      const auto ops = make_cpu_ops(2, Precision::bf16);
      const Answer exact = solve(*ops, problem(s, Dtype::f32, rate));
      const Answer rounded = solve(*ops, problem(s, Dtype::bf16, rate));
      for (std::size_t i = 0; i < exact.all().size(); ++i)
        EXPECT_TRUE(same_bits(*rounded.all()[i], exact.all()[i]->to(rounded.all()[i]->dtype()))) << "output " << i;
    }
  }
}

// Values and gradients that cancel show what has been rounded before they are summed.
TEST(CpuAttention, RoundsProbabilitiesAndTheirGradientsWhereTheMachineMultipliesBf16) {
  if (!has_bf16_instructions()) GTEST_SKIP() << "this machine has no such instructions";
  constexpr std::int64_t kQueries = 5, kKeys = 7, kWidth = 2;
  for (const std::int64_t heads : {1, 4}) {
    SCOPED_TRACE(text(heads, " heads"));
    Problem p = problem({.queries = kQueries, .keys = kKeys, .heads = heads, .width = kWidth}, Dtype::bf16);
    for (std::int64_t i = 0; i < p.v.elements(); ++i)
      p.v.set(i, (i / (heads * kWidth) % 2 == 0 ? 64 : -64) + static_cast<double>(i % 5) / 8);
    const Answer got = solve(*make_cpu_ops(1, Precision::bf16), p);
    double of_rounded = 0, of_unrounded = 0;  // the largest distances from what is computed so
    for (std::int64_t h = 0; h < heads; ++h) {
      const auto at = [&](const OwnedTensor& x, std::int64_t t, std::int64_t c) {
        return x.get((t * heads + h) * kWidth + c);
      };
      const auto dot = [&](const OwnedTensor& x, std::int64_t i, const OwnedTensor& y, std::int64_t j) {
        return at(x, i, 0) * at(y, j, 0) + at(x, i, 1) * at(y, j, 1);
      };
      for (const bool rounds : {false, true}) {
        const auto rounded = [&](double x) { return rounds ? round_to_bf16(x) : x; };
        double& distance = rounds ? of_rounded : of_unrounded;
        const auto compare = [&](double a, double b) { distance = std::max(distance, std::abs(a - b)); };
        double dk[kKeys][kWidth] = {}, dv[kKeys][kWidth] = {};
        for (std::int64_t i = 0; i < kQueries; ++i) {
          double scores[kKeys], top = -1e30, total = 0, delta = 0, out[kWidth] = {}, dq[kWidth] = {};
          for (std::int64_t j = 0; j < kKeys; ++j) {
            scores[j] = dot(p.q, i, p.k, j) / std::sqrt(2.0);
            top = std::max(top, scores[j]);
          }
          for (std::int64_t j = 0; j < kKeys; ++j) total += std::exp(scores[j] - top);
          for (std::int64_t j = 0; j < kKeys; ++j) {
            const double weight = rounded(std::exp(scores[j] - top)) / total;
            for (std::int64_t c = 0; c < kWidth; ++c) out[c] += weight * at(p.v, j, c);
            delta += std::exp(scores[j] - top) / total * dot(p.dout, i, p.v, j);
          }
          for (std::int64_t j = 0; j < kKeys; ++j) {
            const double probability = std::exp(scores[j] - top) / total;
            const double ds = rounded(probability * (dot(p.dout, i, p.v, j) - delta)) / std::sqrt(2.0);
            for (std::int64_t c = 0; c < kWidth; ++c) {
              dv[j][c] += rounded(probability) * at(p.dout, i, c);
              dk[j][c] += ds * at(p.q, i, c);
              dq[c] += ds * at(p.k, j, c);
            }
          }
          for (std::int64_t c = 0; c < kWidth; ++c) {
            compare(at(got.out, i, c), round_to_bf16(out[c]));
            compare(at(got.dq, i, c), round_to_bf16(dq[c]));
          }
        }
        for (std::int64_t j = 0; j < kKeys; ++j) {
          for (std::int64_t c = 0; c < kWidth; ++c) {
            compare(at(got.dk, j, c), round_to_bf16(dk[j][c]));
            compare(at(got.dv, j, c), round_to_bf16(dv[j][c]));
          }
        }
      }
    }
    EXPECT_LE(4 * of_rounded, of_unrounded);
  }
}

TEST(CpuAttention, GivesALeafTheSameBitsAloneAndAmongOthers) {
  for (const std::int64_t width : {8, 20}) {
    const Sizes s{.leaves = 4, .images = 3, .queries = 70, .keys = 67, .heads = 12, .width = width};
    for (const double rate : {0.0, 0.3}) {
      const auto ops = make_cpu_ops(2);
      const Problem whole = problem(s, Dtype::f32, rate);
      const Answer together = solve(*ops, whole);
      for (std::int64_t leaf = 0; leaf < s.leaves; ++leaf) {
        Problem one = problem({1, s.images, s.queries, s.keys, s.heads, s.width}, Dtype::f32, rate);
        one.q = part(whole.q, 0, leaf);
        one.k = part(whole.k, 0, leaf);
        one.v = part(whole.v, 0, leaf);
        one.dout = part(whole.dout, 0, leaf);
        one.dropout.first += static_cast<std::uint64_t>(leaf * s.images * s.heads * s.queries * s.keys);
        const Answer alone = solve(*make_cpu_ops(7), one);
        for (std::size_t i = 0; i < alone.all().size(); ++i)
          EXPECT_TRUE(same_bits(part(*together.all()[i], 0, leaf), *alone.all()[i])) << "output " << i;
      }
    }
  }
}

// The gradient of the keys' bias is the sum of dk over the keys, and zero: a bias that all keys share moves all scores
// of a query alike. What is left of it is rounding.
TEST(CpuAttention, LeavesNextToNothingOfTheGradientOfTheKeysBias) {
  for (const Dtype dtype : {Dtype::f32, Dtype::bf16}) {
    for (const double mean :
         {0.0, 2.0}) {  // of queries and values: then ds is small beside what it is the difference of
      Problem p = problem({.images = 2, .queries = 197, .keys = 197, .heads = 1, .width = 64}, dtype);
      for (OwnedTensor* x : {&p.q, &p.v}) {
        for (std::int64_t i = 0; i < x->elements(); ++i) x->set(i, x->get(i) + mean);
      }
      const Answer a = solve(*make_cpu_ops(2, Precision::bf16), p);
      for (std::int64_t c = 0; c < 64; ++c) {
        double sum = 0.0, size = 0.0;
        for (std::int64_t i = c; i < a.dk.elements(); i += 64) {
          sum += a.dk.get(i);
          size += std::abs(a.dk.get(i));
        }
        EXPECT_LE(std::abs(sum), (dtype == Dtype::bf16 ? 2e-3 : 1e-5) * size) << "channel " << c << ", mean " << mean;
      }
    }
  }
}

TEST(CpuAttention, RefusesStoredTensorsOfTwoDtypes) {
  const auto ops = make_cpu_ops(1, Precision::bf16);
  Problem p = problem({.queries = 3, .keys = 3, .heads = 1, .width = 4}, Dtype::bf16);
  p.k = p.k.to(Dtype::f32);
  const std::string said = error_of([&] { solve(*ops, p); }).what();
  EXPECT_NE(said.find("attention_forward: `stored` tensors must share one dtype"), std::string::npos) << said;
}

}  // namespace
}  // namespace vitrail::testing
