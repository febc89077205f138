#include "ops/cpu/attention_kernels.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "ops/cpu/elementwise_kernels.hpp"
#include "ops/cpu/workspace.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/cpu/attention_kernels.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "ops/cpu/small_gemm-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace vitrail::cpu::HWY_NAMESPACE {
namespace {

// Rows of packed matrices are padded to whole cache lines, a multiple of every vector length that we use.
struct Packed {
  std::int64_t keys;   // padded length of a row of keys
  std::int64_t width;  // padded length of a row of channels
};
Packed packed(const HeadShape& shape) { return {aligned_floats(shape.keys), aligned_floats(shape.width)}; }
/// The part of a padded row that is computed.
std::int64_t whole_vectors(std::int64_t n) { return (n + lanes() - 1) / lanes() * lanes(); }

/// to [tokens, row] = from, padded with zeros.
void pack_rows(const float* from, std::int64_t stride, std::int64_t tokens, std::int64_t n, float* to,
               std::int64_t row) {
  for (std::int64_t t = 0; t < tokens; ++t) {
    for_vectors(n, [&](std::int64_t i, std::int64_t count) {
      hn::StoreU(load(from + t * stride + i, count), Floats(), to + t * row + i);
    });
  }
}
/// to [n, row] = the transpose of from, padded with zeros.
void pack_columns(const float* from, std::int64_t stride, std::int64_t tokens, std::int64_t n, float* to,
                  std::int64_t row) {
  std::int64_t t = 0;
#if HWY_TARGET != HWY_SCALAR
  const hn::FixedTag<float, 4> four;
  for (; t + 4 <= tokens; t += 4) {
    const float* const x = from + t * stride;
    std::int64_t i = 0;
    for (; i + 4 <= n; i += 4) {
      const auto a = hn::LoadU(four, x + i);
      const auto b = hn::LoadU(four, x + stride + i);
      const auto c = hn::LoadU(four, x + 2 * stride + i);
      const auto d = hn::LoadU(four, x + 3 * stride + i);
      const auto ab_low = hn::InterleaveLower(four, a, b);  // a0 b0 a1 b1
      const auto ab_high = hn::InterleaveUpper(four, a, b);
      const auto cd_low = hn::InterleaveLower(four, c, d);
      const auto cd_high = hn::InterleaveUpper(four, c, d);
      float* const y = to + i * row + t;
      hn::StoreU(hn::ConcatLowerLower(four, cd_low, ab_low), four, y);
      hn::StoreU(hn::ConcatUpperUpper(four, cd_low, ab_low), four, y + row);
      hn::StoreU(hn::ConcatLowerLower(four, cd_high, ab_high), four, y + 2 * row);
      hn::StoreU(hn::ConcatUpperUpper(four, cd_high, ab_high), four, y + 3 * row);
    }
    for (; i < n; ++i) {
      for (std::int64_t s = 0; s < 4; ++s) to[i * row + t + s] = x[s * stride + i];
    }
  }
#endif
  const std::int64_t end = whole_vectors(tokens);
  for (; t < end; ++t) {
    for (std::int64_t i = 0; i < n; ++i) to[i * row + t] = t < tokens ? from[t * stride + i] : 0.0F;
  }
}
/// In bf16: rounds a packed matrix, padding and all, as the input of a product.
void round_packed(bool bf16, float* x, std::int64_t n) {
  for (std::int64_t i = 0; bf16 && i < n; i += lanes())  // n is a multiple of every vector length
    hn::StoreU(rounded(hn::LoadU(Floats(), x + i)), Floats(), x + i);
}
/// to = scale * from, from packed to strided rows.
void unpack_rows(const float* from, std::int64_t row, std::int64_t tokens, std::int64_t n, const float* scale,
                 float* to, std::int64_t stride) {
  for (std::int64_t t = 0; t < tokens; ++t) {
    const Vector factor = set(scale != nullptr ? scale[t] : 1.0F);
    for_vectors(n, [&](std::int64_t i, std::int64_t count) {
      store(hn::Mul(hn::LoadU(Floats(), from + t * row + i), factor), to + t * stride + i, count);
    });
  }
}

/// scores -> exp(scale * score - top), not normalised; returns their sum. top = scale * the largest score.
float exponentiate(float* scores, std::int64_t tokens, float scale, float& top) {
  const Floats d;
  const Vector low = set(-std::numeric_limits<float>::infinity());
  const std::int64_t whole = tokens / lanes() * lanes();
  const auto rest = hn::FirstN(d, static_cast<std::size_t>(tokens - whole));  // of the last vector: rows are padded
  Vector high = low;
  for (std::int64_t i = 0; i < whole; i += lanes()) high = hn::Max(high, hn::LoadU(d, scores + i));
  if (whole < tokens) high = hn::Max(high, hn::IfThenElse(rest, hn::LoadU(d, scores + whole), low));
  top = largest(high) * scale;
  const Vector scales = set(scale);
  const Vector tops = set(top);
  Vector total = zero();
  for (std::int64_t i = 0; i < whole; i += lanes()) {
    const Vector p = exp(hn::MulSub(hn::LoadU(d, scores + i), scales, tops));
    hn::StoreU(p, d, scores + i);
    total = hn::Add(total, p);
  }
  if (whole < tokens) {
    const Vector p = hn::IfThenElseZero(rest, exp(hn::MulSub(hn::LoadU(d, scores + whole), scales, tops)));
    hn::StoreU(p, d, scores + whole);
    total = hn::Add(total, p);
  }
  return sum(total);
}

/// The factors of the dropout of one query, or nullptr. `row` is scratch, [keys].
const float* factors_of(const DropoutMask* dropout, std::uint64_t first_index, std::int64_t query, std::int64_t keys,
                        float* row) {
  if (dropout == nullptr) return nullptr;
  dropout_factors(*dropout, first_index + static_cast<std::uint64_t>(query * keys), keys, row);
  return row;
}

void multiply_by(const float* factors, float* x, std::int64_t n) {
  for_vectors(n, [&](std::int64_t i, std::int64_t count) {
    store(hn::Mul(load(x + i, count), load(factors + i, count)), x + i, count);
  });
}

void Forward(const AttentionHead& a) {
  const HeadShape& n = a.shape;
  const Packed pad = packed(n);
  const std::int64_t columns = whole_vectors(n.keys);
  const std::int64_t width = whole_vectors(n.width);
  float* const keys = a.scratch;
  float* const values = keys + n.width * pad.keys;
  float* const scores = values + n.keys * pad.width;
  float* const mixed = scores + kQueryBlock * pad.keys;
  float* const factor_row = mixed + kQueryBlock * pad.width;
  float* const queries = factor_row + pad.keys;  // bf16: a rounded copy
  pack_columns(a.k, n.stride, n.keys, n.width, keys, pad.keys);
  pack_rows(a.v, n.stride, n.keys, n.width, values, pad.width);
  round_packed(a.bf16, keys, n.width * pad.keys);
  round_packed(a.bf16, values, n.keys * pad.width);
  const float scale = 1.0F / std::sqrt(static_cast<float>(n.width));
  for (std::int64_t first = 0; first < n.queries; first += kQueryBlock) {
    const std::int64_t rows = std::min(kQueryBlock, n.queries - first);
    const float* q = a.q + first * n.stride;
    if (a.bf16) {
      pack_rows(q, n.stride, rows, n.width, queries, pad.width);
      round_packed(true, queries, rows * pad.width);
      q = queries;
    }
    const std::int64_t q_row = a.bf16 ? pad.width : n.stride;
    small_gemm({rows, columns, n.width, q, q_row, 1, keys, pad.keys, scores, pad.keys, false});
    float tops[kQueryBlock];
    float totals[kQueryBlock];
    float inverse[kQueryBlock];
    for (std::int64_t row = 0; row < rows; ++row) {
      totals[row] = exponentiate(scores + row * pad.keys, n.keys, scale, tops[row]);
      const float* const factors = factors_of(a.dropout, a.first_index, first + row, n.keys, factor_row);
      if (factors != nullptr) multiply_by(factors, scores + row * pad.keys, n.keys);
    }
    for_vectors(rows, [&](std::int64_t i, std::int64_t count) {
      const Vector total = load(totals + i, count, 1.0F);
      store(hn::Div(set(1.0F), total), inverse + i, count);
      store(hn::Add(load(tops + i, count), log(total)), a.log_sum_exp + first + i, count);
    });
    small_gemm({rows, width, n.keys, scores, pad.keys, 1, values, pad.width, mixed, pad.width, false});
    unpack_rows(mixed, pad.width, rows, n.width, inverse, a.out + first * n.stride, n.stride);
  }
}

/// p = exp(scale * score - log_sum_exp); dscores = p * (factor * dout_v - delta) * scale; scores = factor * p.
/// `dscores` holds dout_v on entry.
template <bool kDropout>
void score_gradients(float* scores, float* dscores, const float* factors, std::int64_t keys, float scale,
                     float log_sum_exp, float delta) {
  const Floats d;
  const Vector scales = set(scale);
  const Vector logs = set(log_sum_exp);
  const Vector deltas = set(delta);
  for (std::int64_t i = 0; i < keys; i += lanes()) {  // padded: what stands past the end is not used
    const Vector p = exp(hn::MulSub(hn::LoadU(d, scores + i), scales, logs));
    Vector dp = hn::LoadU(d, dscores + i);
    Vector kept = p;
    if constexpr (kDropout) {
      const Vector factor = hn::LoadU(d, factors + i);
      dp = hn::Mul(dp, factor);
      kept = hn::Mul(p, factor);
    }
    hn::StoreU(kept, d, scores + i);
    hn::StoreU(hn::Mul(hn::Mul(p, hn::Sub(dp, deltas)), scales), d, dscores + i);
  }
}

float dot(const float* x, const float* y, std::int64_t n) {
  Vector total = zero();
  for_vectors(n, [&](std::int64_t i, std::int64_t count) {
    total = hn::MulAdd(load(x + i, count), load(y + i, count), total);
  });
  return sum(total);
}

void Backward(const AttentionHeadBackward& a) {
  const HeadShape& n = a.shape;
  const Packed pad = packed(n);
  const std::int64_t columns = whole_vectors(n.keys);
  const std::int64_t width = whole_vectors(n.width);
  float* place = a.scratch;
  const auto take = [&](std::int64_t count) { return std::exchange(place, place + count); };
  float* const key_columns = take(n.width * pad.keys);
  float* const value_columns = take(n.width * pad.keys);
  float* const keys = take(n.keys * pad.width);
  float* const queries = take(n.queries * pad.width);
  float* const douts = take(n.queries * pad.width);
  float* const dkeys = take(n.keys * pad.width);
  float* const dvalues = take(n.keys * pad.width);
  float* const scores = take(kQueryBlock * pad.keys);
  float* const dscores = take(kQueryBlock * pad.keys);
  float* const dqueries = take(kQueryBlock * pad.width);
  float* const factor_row = take(pad.keys);
  pack_columns(a.k, n.stride, n.keys, n.width, key_columns, pad.keys);
  pack_columns(a.v, n.stride, n.keys, n.width, value_columns, pad.keys);
  pack_rows(a.k, n.stride, n.keys, n.width, keys, pad.width);
  pack_rows(a.q, n.stride, n.queries, n.width, queries, pad.width);
  pack_rows(a.dout, n.stride, n.queries, n.width, douts, pad.width);
  round_packed(a.bf16, key_columns, 2 * n.width * pad.keys);  // the five lie one after the other
  round_packed(a.bf16, keys, (n.keys + 2 * n.queries) * pad.width);
  const float scale = 1.0F / std::sqrt(static_cast<float>(n.width));
  for (std::int64_t first = 0; first == 0 || first < n.queries; first += kQueryBlock) {  // no query: dk and dv are 0
    const std::int64_t rows = std::min(kQueryBlock, n.queries - first);
    const float* const q = queries + first * pad.width;
    const float* const dout = douts + first * pad.width;
    small_gemm({rows, columns, n.width, q, pad.width, 1, key_columns, pad.keys, scores, pad.keys, false});
    small_gemm({rows, columns, n.width, dout, pad.width, 1, value_columns, pad.keys, dscores, pad.keys, false});
    for (std::int64_t row = 0; row < rows; ++row) {
      const float delta = dot(dout + row * pad.width, a.out + (first + row) * n.stride, n.width);
      const float* const factors = factors_of(a.dropout, a.first_index, first + row, n.keys, factor_row);
      (factors != nullptr ? score_gradients<true> : score_gradients<false>)(scores + row * pad.keys,
                                                                            dscores + row * pad.keys, factors, n.keys,
                                                                            scale, a.log_sum_exp[first + row], delta);
    }
    small_gemm({rows, width, n.keys, dscores, pad.keys, 1, keys, pad.width, dqueries, pad.width, false});
    unpack_rows(dqueries, pad.width, rows, n.width, nullptr, a.dq + first * n.stride, n.stride);
    const bool add = first > 0;
    small_gemm({n.keys, width, rows, scores, 1, pad.keys, dout, pad.width, dvalues, pad.width, add});
    small_gemm({n.keys, width, rows, dscores, 1, pad.keys, q, pad.width, dkeys, pad.width, add});
  }
  unpack_rows(dkeys, pad.width, n.keys, n.width, nullptr, a.dk, n.stride);
  unpack_rows(dvalues, pad.width, n.keys, n.width, nullptr, a.dv, n.stride);
}

}  // namespace
}  // namespace vitrail::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace vitrail::cpu {

HWY_EXPORT(Forward);
HWY_EXPORT(Backward);

void attention_head(const AttentionHead& a) { HWY_DYNAMIC_DISPATCH(Forward)(a); }
void attention_head_backward(const AttentionHeadBackward& a) { HWY_DYNAMIC_DISPATCH(Backward)(a); }

std::int64_t attention_scratch(const HeadShape& shape) {
  const std::int64_t key_row = aligned_floats(shape.keys);
  const std::int64_t width_row = aligned_floats(shape.width);
  return 2 * shape.width * key_row + (3 * shape.keys + 2 * shape.queries) * width_row +
         2 * kQueryBlock * (key_row + width_row) + key_row;
}

}  // namespace vitrail::cpu
#endif  // HWY_ONCE
