#include "ops/cpu/attention_kernels.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>
#include <utility>

#include "ops/cpu/elementwise_kernels.hpp"
#include "ops/cpu/workspace.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/cpu/attention_kernels.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "ops/cpu/small_gemm-inl.hpp"
#include "ops/cpu/transpose-inl.hpp"

// Scores lie transposed, [key, query]: what softmax does is then the same for all lanes of a vector, and no lane needs
// a mask; queries are padded with zeros. Narrow heads are computed kGroup at a time, element by element side by side:
// [key, query, head], [token, channel, head]. So they fill vectors that one of them would not.

#ifndef VITRAIL_OPS_CPU_ATTENTION_SIZES
#define VITRAIL_OPS_CPU_ATTENTION_SIZES
namespace vitrail::cpu {
namespace {
/// Lanes, queries times heads of a group, that are treated together. Fixed: the order of the sums of dk and dv depends
/// on it.
constexpr std::int64_t kBlock = 64;
constexpr std::int64_t kNarrow = 16;  // channels of a head that is one of a group
constexpr std::int64_t kTogether = 4;

std::int64_t group_of(const HeadShape& n) { return n.width <= kNarrow && n.heads % kTogether == 0 ? kTogether : 1; }
/// Floats of a row of channels, padded to whole cache lines: a multiple of every vector length that we use.
std::int64_t row_of(const HeadShape& n) { return aligned_floats(n.width * group_of(n)); }
}  // namespace
}  // namespace vitrail::cpu
#endif

HWY_BEFORE_NAMESPACE();
namespace vitrail::cpu::HWY_NAMESPACE {
namespace {

template <class D>
HWY_INLINE std::int64_t lanes_of(D d) {
  return static_cast<std::int64_t>(hn::Lanes(d));
}
std::int64_t whole_vectors(std::int64_t n) { return (n + lanes() - 1) / lanes() * lanes(); }

// --- packing ---------------------------------------------------------------------------------------------------------

/// Rows of some tokens of a group of heads.
template <class T>
struct Rows {
  T* first;
  std::int64_t stride;  // from token to token
  std::int64_t width;   // Dh
};

#if HWY_TARGET != HWY_SCALAR
/// As many elements as d has lanes, from p or to p; what becomes bf16 is rounded already.
template <class D>
HWY_INLINE hn::Vec<D> load_lanes(D d, const float* p) {
  return hn::LoadU(d, p);
}
template <class D>
HWY_INLINE hn::Vec<D> load_lanes(D d, const Bf16* p) {
  const hn::RebindToUnsigned<D> whole;
  const hn::Rebind<std::uint16_t, D> half;
  const auto bits = hn::PromoteTo(whole, hn::LoadU(half, reinterpret_cast<const std::uint16_t*>(p)));
  return hn::BitCast(d, hn::ShiftLeft<16>(bits));
}
template <class D>
HWY_INLINE void store_lanes(D d, hn::Vec<D> x, float* p) {
  hn::StoreU(x, d, p);
}
template <class D>
HWY_INLINE void store_lanes(D, hn::Vec<D> x, Bf16* p) {
  const hn::RebindToUnsigned<D> whole;
  const hn::Rebind<std::uint16_t, D> half;
  const auto bits = hn::TruncateTo(half, hn::ShiftRight<16>(hn::BitCast(whole, x)));
  hn::StoreU(bits, half, reinterpret_cast<std::uint16_t*>(p));
}
/// From x, and from every `stride` elements on; and to there.
template <class D, class T>
HWY_INLINE Four<hn::Vec<D>> load_four(D d, const T* x, std::int64_t stride) {
  return {load_lanes(d, x), load_lanes(d, x + stride), load_lanes(d, x + 2 * stride), load_lanes(d, x + 3 * stride)};
}
template <class D, class T>
HWY_INLINE void store_four(D d, const Four<hn::Vec<D>>& v, T* x, std::int64_t stride) {
  store_lanes(d, v.a, x);
  store_lanes(d, v.b, x + stride);
  store_lanes(d, v.c, x + 2 * stride);
  store_lanes(d, v.d, x + 3 * stride);
}

/// body(d, c, place) for runs of channels, as many as d has lanes: channels c ... of a packed token of four heads begin
/// at `place`. Inside a run they lie in an order of their own (every fourth, then the next ones), the same for all.
/// What is left, less than four channels, is in order.
template <class Body>
HWY_INLINE void for_runs(std::int64_t width, const Body& body) {
  std::int64_t c = 0;
  if constexpr (HWY_MAX_BYTES >= 64) {
    for (; c + 16 <= width; c += 16) body(hn::CappedTag<float, 16>(), c, 4 * c);
  }
  if constexpr (HWY_MAX_BYTES >= 32) {
    for (; c + 8 <= width; c += 8) body(hn::CappedTag<float, 8>(), c, 4 * c);
  }
  for (; c + 4 <= width; c += 4) body(hn::FixedTag<float, 4>(), c, 4 * c);
}

/// to [width, 4] = the channels of four heads; and back.
template <class T>
HWY_INLINE void interleave(const T* from, std::int64_t width, float* to) {
  for_runs(width, [&](auto d, std::int64_t c, std::int64_t place) {
    store_four(d, transpose_blocks(d, load_four(d, from + c, width)), to + place, lanes_of(d));
  });
  for (std::int64_t c = width / 4 * 4; c < width; ++c) {
    for (std::int64_t g = 0; g < 4; ++g) {
      if constexpr (std::is_same_v<T, Bf16>) {
        to[4 * c + g] = to_float(from[g * width + c]);
      } else {
        to[4 * c + g] = from[g * width + c];
      }
    }
  }
}
template <class T>
HWY_INLINE void deinterleave(const float* from, std::int64_t width, T* to) {
  for_runs(width, [&](auto d, std::int64_t c, std::int64_t place) {
    store_four(d, transpose_blocks(d, load_four(d, from + place, lanes_of(d))), to + c, width);
  });
  for (std::int64_t c = width / 4 * 4; c < width; ++c) {
    for (std::int64_t g = 0; g < 4; ++g) {
      if constexpr (std::is_same_v<T, Bf16>) {
        to[g * width + c] = to_bf16(from[4 * c + g]);
      } else {
        to[g * width + c] = from[4 * c + g];
      }
    }
  }
}
#endif

/// In bf16: rounds packed rows as the input of a product.
void round_packed(bool round, float* x, std::int64_t n) {
  for (std::int64_t i = 0; round && i < n; i += lanes()) store(rounded(load(x + i)), x + i);
}

/// to [tokens, row] = from as f32, heads of a group side by side, padded with zeros up to `padded` tokens.
template <int kGroup, class T>
void pack_rows(const Rows<const T>& from, std::int64_t tokens, std::int64_t padded, bool round, float* to,
               std::int64_t row) {
  const std::int64_t n = kGroup * from.width;
  for (std::int64_t t = 0; t < tokens; ++t) {
    const T* const x = from.first + t * from.stride;
    float* const y = to + t * row;
    if constexpr (kGroup == 1) {
      for_vectors(n, [&](std::int64_t i, std::int64_t count) { store(load(x + i, count), y + i); });
    } else {
#if HWY_TARGET != HWY_SCALAR
      interleave(x, from.width, y);
      for (std::int64_t i = n; i % lanes() != 0; ++i) y[i] = 0.0F;
#endif
    }
    for (std::int64_t i = whole_vectors(n); i < row; i += lanes()) store(zero(), y + i);
  }
  std::fill_n(to + tokens * row, (padded - tokens) * row, 0.0F);
  round_packed(round, to, tokens * row);
}

/// to = from [tokens, row], which is changed, with heads of a group apart, times scale [tokens, kGroup], or scale
/// [kGroup] for all.
template <int kGroup, bool kScales, class T>
void unpack_rows(float* from, std::int64_t row, std::int64_t tokens, const float* scale, const Rows<T>& to) {
  for (std::int64_t t = 0; t < tokens; ++t) {
    const float* const factor = kScales ? scale + t * kGroup : scale;
    const Vector factors = repeat<kGroup>(factor);
    float* const x = from + t * row;
    T* const y = to.first + t * to.stride;
    if constexpr (kGroup == 1) {
      for_vectors(to.width,
                  [&](std::int64_t i, std::int64_t count) { store(hn::Mul(load(x + i), factors), y + i, count); });
    } else {
#if HWY_TARGET != HWY_SCALAR
      for (std::int64_t i = 0; i < kGroup * to.width; i += lanes()) {
        const Vector scaled = hn::Mul(load(x + i), factors);
        store(std::is_same_v<T, Bf16> ? rounded(scaled) : scaled, x + i);
      }
      deinterleave(x, to.width, y);
#endif
    }
  }
}

/// to [width, lanes] = the transpose of packed rows: [channel, token, head].
template <int kGroup>
void pack_columns(const float* rows, std::int64_t row, std::int64_t width, float* to, std::int64_t columns) {
  if constexpr (kGroup == 1) {
    transpose(rows, row, columns, width, to, columns, columns);
  } else {
#if HWY_TARGET != HWY_SCALAR
    const hn::FixedTag<float, 4> four;
    for (std::int64_t c = 0; c < width; ++c) {
      for (std::int64_t t = 0; t < columns / 4; ++t)
        hn::StoreU(hn::LoadU(four, rows + t * row + 4 * c), four, to + c * columns + 4 * t);
    }
#endif
  }
}

// --- softmax ---------------------------------------------------------------------------------------------------------

/// e^x to 2e-7 for x <= 88; x below -87 counts as -87; NaN stays NaN. As exp of vector_math-inl.hpp, with fewer
/// operations: a loop over many vectors is bound by these.
HWY_INLINE Vector quick_exp(Vector x) {
  const hn::RebindToSigned<Floats> di;
  const Vector magic = set(12582912.0F + 127.0F);  // leaves the integer, plus the bias of an exponent, in the low bits
  x = hn::Max(set(-87.0F), x);                     // x86 returns the right operand if one is NaN
  const Vector shifted = hn::MulAdd(x, set(1.4426950408889634F), magic);
  const Vector r = hn::NegMulAdd(hn::Sub(shifted, magic), set(0.693147180559945309F), x);  // ln 2 is off by 2e-9 only
  // The polynomial of degree 5 that begins with 1 + r and whose largest relative error is the smallest, 1.05e-7.
  Vector series = hn::MulAdd(r, set(0.008312501013278961F), set(0.041890330612659454F));
  series = hn::MulAdd(series, r, set(0.16667115688323975F));
  series = hn::MulAdd(series, r, set(0.499992311000824F));
  series = hn::MulAdd(series, r, set(1.0F));
  series = hn::MulAdd(series, r, set(1.0F));
  return hn::Mul(series, hn::BitCast(Floats(), hn::ShiftLeft<23>(hn::BitCast(di, shifted))));
}

constexpr std::int64_t kRun = 64;  // keys whose terms are summed before they are added to a longer sum

/// scores [keys, columns] -> e^(scale * score - top) of kVectors vectors of columns, not normalised. totals = their
/// sums over the keys, tops = scale * the largest scores.
template <int kVectors>
void exponentiate_some(float* scores, std::int64_t keys, std::int64_t columns, float scale, float* tops,
                       float* totals) {
  const std::int64_t step = lanes();
  Vector top[kVectors], total[kVectors];
  for (int v = 0; v < kVectors; ++v) {
    top[v] = set(-std::numeric_limits<float>::infinity());
    total[v] = set(keys > 0 ? 0.0F : 1.0F);  // without keys, `out` is 0 / 1
  }
  for (std::int64_t key = 0; key < keys; ++key) {
    for (int v = 0; v < kVectors; ++v) top[v] = hn::Max(top[v], load(scores + key * columns + v * step));
  }
  const Vector scales = set(scale);
  for (int v = 0; v < kVectors; ++v) top[v] = hn::Mul(top[v], scales);
  for (std::int64_t first = 0; first < keys; first += kRun) {
    Vector run[kVectors];
    for (int v = 0; v < kVectors; ++v) run[v] = zero();
    for (std::int64_t key = first; key < std::min(keys, first + kRun); ++key) {
      for (int v = 0; v < kVectors; ++v) {
        float* const x = scores + key * columns + v * step;
        const Vector p = quick_exp(hn::MulSub(load(x), scales, top[v]));
        store(p, x);
        run[v] = hn::Add(run[v], p);
      }
    }
    for (int v = 0; v < kVectors; ++v) total[v] = hn::Add(total[v], run[v]);
  }
  for (int v = 0; v < kVectors; ++v) {
    store(top[v], tops + v * step);
    store(total[v], totals + v * step);
  }
}

/// p = e^(scale * score - log_sum_exp), dp *= factor; delta = the sum over the keys of p dp; then dscores = p (dp -
/// delta), in the place of dp, and scores = factor * p. Of kVectors vectors of columns; factors may be left out. delta
/// is divided by the sum of p: log_sum_exp is rounded, so that is 1 only nearly when scores are large.
template <int kVectors, bool kDropout>
void score_gradients_some(float* scores, float* dscores, const float* factors, std::int64_t keys, std::int64_t columns,
                          float scale, const float* log_sum_exp) {
  const std::int64_t step = lanes();
  const Vector scales = set(scale);
  Vector logs[kVectors], delta[kVectors], total[kVectors];
  for (int v = 0; v < kVectors; ++v) {
    logs[v] = load(log_sum_exp + v * step);
    delta[v] = zero();
    total[v] = zero();
  }
  for (std::int64_t first = 0; first < keys; first += kRun) {
    Vector run[kVectors], run_total[kVectors];
    for (int v = 0; v < kVectors; ++v) run[v] = run_total[v] = zero();
    for (std::int64_t key = first; key < std::min(keys, first + kRun); ++key) {
      for (int v = 0; v < kVectors; ++v) {
        const std::int64_t i = key * columns + v * step;
        const Vector p = quick_exp(hn::MulSub(load(scores + i), scales, logs[v]));
        Vector dp = load(dscores + i);
        if constexpr (kDropout) {
          dp = hn::Mul(dp, load(factors + i));
          store(dp, dscores + i);
        }
        store(p, scores + i);
        run[v] = hn::MulAdd(p, dp, run[v]);
        run_total[v] = hn::Add(run_total[v], p);
      }
    }
    for (int v = 0; v < kVectors; ++v) {
      delta[v] = hn::Add(delta[v], run[v]);
      total[v] = hn::Add(total[v], run_total[v]);
    }
  }
  for (int v = 0; v < kVectors; ++v) delta[v] = hn::Div(delta[v], total[v]);
  for (std::int64_t key = 0; key < keys; ++key) {
    for (int v = 0; v < kVectors; ++v) {
      const std::int64_t i = key * columns + v * step;
      const Vector p = load(scores + i);
      store(hn::Mul(p, hn::Sub(load(dscores + i), delta[v])), dscores + i);
      if constexpr (kDropout) store(hn::Mul(p, load(factors + i)), scores + i);
    }
  }
}

/// body(count as a constant, first column) for all columns, up to four vectors at a time.
template <class Body>
HWY_INLINE void for_columns(std::int64_t columns, const Body& body) {
  std::int64_t c = 0;
  for (; c + 4 * lanes() <= columns; c += 4 * lanes()) body(std::integral_constant<int, 4>(), c);
  for (; c + 2 * lanes() <= columns; c += 2 * lanes()) body(std::integral_constant<int, 2>(), c);
  if (c < columns) body(std::integral_constant<int, 1>(), c);
}

// --- the passes ------------------------------------------------------------------------------------------------------

/// A block of queries of a group of heads.
struct Block {
  std::int64_t first, queries;  // of the queries
  std::int64_t columns;         // queries * kGroup and padding
};

/// body(block) for blocks of about equal size.
template <int kGroup, class Body>
void for_blocks(std::int64_t queries, const Body& body) {
  const std::int64_t vectors = whole_vectors(queries * kGroup) / lanes();
  const std::int64_t most = kBlock / lanes();
  const std::int64_t blocks = (vectors + most - 1) / most;
  for (std::int64_t b = 0, first = 0; b < blocks; ++b) {
    const std::int64_t columns = (vectors / blocks + (b < vectors % blocks ? 1 : 0)) * lanes();
    const std::int64_t count = std::min(columns / kGroup, queries - first);
    body(Block{first, count, columns});
    first += count;
  }
}

/// What all heads of a call share.
struct Sizes {
  const HeadShape& n;
  std::int64_t row;     // floats of a packed row of channels
  std::int64_t used;    // the part of it that is computed
  std::int64_t stride;  // of tokens in the tensors
  float scale;
  template <int kGroup>
  static Sizes of(const HeadShape& n) {
    return {n, row_of(n), whole_vectors(n.width * kGroup), n.heads * n.width,
            1.0F / std::sqrt(static_cast<float>(n.width))};
  }
};

/// factors [keys, columns] of the dropout of a block. The rows that they are drawn in lie in `drawn`, [columns, keys].
template <int kGroup>
void draw_factors(const DropoutMask& mask, std::uint64_t first_index, const HeadShape& n, const Block& block,
                  float* drawn, float* factors) {
  const std::int64_t row = aligned_floats(n.keys);
  for (std::int64_t q = 0; q < block.queries; ++q) {
    for (std::int64_t g = 0; g < kGroup; ++g) {
      const std::int64_t at = (g * n.queries + block.first + q) * n.keys;
      dropout_factors(mask, first_index + static_cast<std::uint64_t>(at), n.keys, drawn + (q * kGroup + g) * row);
    }
  }
  transpose(drawn, row, block.columns, n.keys, factors, block.columns, block.columns);
}

/// Some tokens of a group of heads will be needed, to read or to write.
template <int kGroup, class T>
void ask_for(Ahead& ahead, const HeadShape& n, const T* x, std::int64_t head, std::int64_t tokens) {
  constexpr auto kSize = static_cast<std::int64_t>(sizeof(T));
  if (tokens > 0) ahead.add(x + head * n.width, kGroup * n.width * kSize, n.heads * n.width * kSize, tokens);
}

template <int kGroup, class T>
void forward_group(const AttentionHeads<T>& a, std::int64_t head) {
  const HeadShape& n = a.shape;
  Ahead ahead;  // the next group's tensors
  if (head + kGroup < a.count) {
    const auto need = [&](const T* x, std::int64_t tokens) { ask_for<kGroup>(ahead, n, x, head + kGroup, tokens); };
    need(a.k, n.keys);
    need(a.v, n.keys);
    need(a.q, n.queries);
    need(a.out, n.queries);
  }
  const Sizes s = Sizes::of<kGroup>(n);
  float* place = a.scratch;
  const auto take = [&](std::int64_t count) { return std::exchange(place, place + aligned_floats(count)); };
  float* const keys = take(n.keys * s.row);
  float* const values = take(n.keys * s.row);
  float* const rows = take(kBlock * s.row);  // of queries, later of `out`
  float* const queries = take(kBlock * (n.width + 3));
  float* const scores = take(n.keys * kBlock);
  const auto in = [&](const T* x) { return Rows<const T>{x + head * n.width, s.stride, n.width}; };
  const auto token = [&](Rows<const T> x, std::int64_t t) {
    x.first += t * s.stride;
    return x;
  };
  pack_rows<kGroup>(in(a.k), n.keys, n.keys, a.round, keys, s.row);
  pack_rows<kGroup>(in(a.v), n.keys, n.keys, a.round, values, s.row);
  for_blocks<kGroup>(n.queries, [&](const Block& block) {
    const std::int64_t columns = block.columns;
    pack_rows<kGroup>(token(in(a.q), block.first), block.queries, columns / kGroup, a.round, rows, s.row);
    pack_columns<kGroup>(rows, s.row, n.width, queries, columns);
    small_gemm<kGroup>(
        {n.keys, columns, n.width, keys, s.row, kGroup, queries, columns, scores, columns, false, &ahead});
    HWY_ALIGN float tops[kBlock];
    HWY_ALIGN float totals[kBlock];
    for_columns(columns, [&](auto vectors, std::int64_t c) {
      exponentiate_some<vectors()>(scores + c, n.keys, columns, s.scale, tops + c, totals + c);
    });
    for (std::int64_t i = 0; i < columns; i += lanes()) {
      const Vector total = load(totals + i);
      store(hn::Add(load(tops + i), log(total)), tops + i);
      store(hn::Div(set(1.0F), total), totals + i);
    }
    for (std::int64_t g = 0; g < kGroup; ++g) {
      for (std::int64_t q = 0; q < block.queries; ++q)
        a.log_sum_exp[(head + g) * n.queries + block.first + q] = tops[q * kGroup + g];
    }
    if (a.dropout != nullptr) {
      float* const factors = place;
      draw_factors<kGroup>(*a.dropout, a.first_index + static_cast<std::uint64_t>(head * n.queries * n.keys), n, block,
                           factors + n.keys * kBlock, factors);
      for (std::int64_t i = 0; i < n.keys * columns; i += lanes())
        store(hn::Mul(load(scores + i), load(factors + i)), scores + i);
    }
    small_gemm<kGroup>(
        {block.queries, s.used, n.keys, scores, kGroup, columns, values, s.row, rows, s.row, false, &ahead});
    unpack_rows<kGroup, true>(rows, s.row, block.queries, totals,
                              Rows<T>{a.out + head * n.width + block.first * s.stride, s.stride, n.width});
  });
}

template <int kGroup, class T>
void backward_group(const AttentionHeadsBackward<T>& a, std::int64_t head) {
  const HeadShape& n = a.shape;
  Ahead ahead;  // the next group's tensors
  if (head + kGroup < a.count) {
    const auto need = [&](const T* x, std::int64_t tokens) { ask_for<kGroup>(ahead, n, x, head + kGroup, tokens); };
    for (const T* x : {a.k, a.v}) need(x, n.keys);
    for (const T* x : {a.q, a.dout}) need(x, n.queries);
    need(a.dq, n.queries);
    for (const T* x : {a.dk, a.dv}) need(x, n.keys);
  }
  const Sizes s = Sizes::of<kGroup>(n);
  float* place = a.scratch;
  const auto take = [&](std::int64_t count) { return std::exchange(place, place + aligned_floats(count)); };
  float* const keys = take(n.keys * s.row);
  float* const values = take(n.keys * s.row);
  float* const query_rows = take(kBlock * s.row);
  float* const dout_rows = take(kBlock * s.row);
  float* const queries = take(kBlock * (n.width + 3));
  float* const douts = take(kBlock * (n.width + 3));
  float* const scores = take(n.keys * kBlock);
  float* const dscores = take(n.keys * kBlock);
  float* const dkeys = take(n.keys * s.row);
  float* const dvalues = take(n.keys * s.row);
  float* const dqueries = query_rows;
  const auto in = [&](const T* x, std::int64_t t) {
    return Rows<const T>{x + head * n.width + t * s.stride, s.stride, n.width};
  };
  const auto out = [&](T* x, std::int64_t t) { return Rows<T>{x + head * n.width + t * s.stride, s.stride, n.width}; };
  const float scale[kTogether] = {s.scale, s.scale, s.scale, s.scale};
  const float one[kTogether] = {1.0F, 1.0F, 1.0F, 1.0F};
  pack_rows<kGroup>(in(a.k, 0), n.keys, n.keys, a.round, keys, s.row);
  pack_rows<kGroup>(in(a.v, 0), n.keys, n.keys, a.round, values, s.row);
  if (n.queries == 0) {
    std::fill_n(dkeys, n.keys * s.row, 0.0F);
    std::fill_n(dvalues, n.keys * s.row, 0.0F);
  }
  for_blocks<kGroup>(n.queries, [&](const Block& block) {
    const std::int64_t columns = block.columns;
    pack_rows<kGroup>(in(a.q, block.first), block.queries, columns / kGroup, a.round, query_rows, s.row);
    pack_columns<kGroup>(query_rows, s.row, n.width, queries, columns);
    pack_rows<kGroup>(in(a.dout, block.first), block.queries, columns / kGroup, a.round, dout_rows, s.row);
    pack_columns<kGroup>(dout_rows, s.row, n.width, douts, columns);
    small_gemm<kGroup>(
        {n.keys, columns, n.width, keys, s.row, kGroup, queries, columns, scores, columns, false, &ahead});
    small_gemm<kGroup>(
        {n.keys, columns, n.width, values, s.row, kGroup, douts, columns, dscores, columns, false, &ahead});
    HWY_ALIGN float logs[kBlock] = {};
    for (std::int64_t g = 0; g < kGroup; ++g) {
      for (std::int64_t q = 0; q < block.queries; ++q)
        logs[q * kGroup + g] = a.log_sum_exp[(head + g) * n.queries + block.first + q];
    }
    if (a.dropout != nullptr) {
      float* const factors = place;
      draw_factors<kGroup>(*a.dropout, a.first_index + static_cast<std::uint64_t>(head * n.queries * n.keys), n, block,
                           factors + n.keys * kBlock, factors);
      for_columns(columns, [&](auto vectors, std::int64_t c) {
        score_gradients_some<vectors(), true>(scores + c, dscores + c, factors + c, n.keys, columns, s.scale, logs + c);
      });
    } else {
      for_columns(columns, [&](auto vectors, std::int64_t c) {
        score_gradients_some<vectors(), false>(scores + c, dscores + c, nullptr, n.keys, columns, s.scale, logs + c);
      });
    }
    const bool add = block.first > 0;
    small_gemm<kGroup>(
        {n.keys, s.used, block.queries, scores, columns, kGroup, dout_rows, s.row, dvalues, s.row, add, &ahead});
    small_gemm<kGroup>(
        {n.keys, s.used, block.queries, dscores, columns, kGroup, query_rows, s.row, dkeys, s.row, add, &ahead});
    small_gemm<kGroup>(
        {block.queries, s.used, n.keys, dscores, kGroup, columns, keys, s.row, dqueries, s.row, false, &ahead});
    unpack_rows<kGroup, false>(dqueries, s.row, block.queries, scale, out(a.dq, block.first));
  });
  unpack_rows<kGroup, false>(dkeys, s.row, n.keys, scale, out(a.dk, 0));
  unpack_rows<kGroup, false>(dvalues, s.row, n.keys, one, out(a.dv, 0));
}

template <class T>
void forward(const AttentionHeads<T>& a) {
  std::int64_t head = 0;
#if HWY_TARGET != HWY_SCALAR
  for (; group_of(a.shape) == kTogether && head < a.count; head += kTogether) forward_group<kTogether>(a, head);
#endif
  for (; head < a.count; ++head) forward_group<1>(a, head);
}
template <class T>
void backward(const AttentionHeadsBackward<T>& a) {
  std::int64_t head = 0;
#if HWY_TARGET != HWY_SCALAR
  for (; group_of(a.shape) == kTogether && head < a.count; head += kTogether) backward_group<kTogether>(a, head);
#endif
  for (; head < a.count; ++head) backward_group<1>(a, head);
}

void Forward(const AttentionHeads<float>& a) { forward(a); }
void ForwardBf16(const AttentionHeads<Bf16>& a) { forward(a); }
void Backward(const AttentionHeadsBackward<float>& a) { backward(a); }
void BackwardBf16(const AttentionHeadsBackward<Bf16>& a) { backward(a); }

}  // namespace
}  // namespace vitrail::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace vitrail::cpu {

HWY_EXPORT(Forward);
HWY_EXPORT(ForwardBf16);
HWY_EXPORT(Backward);
HWY_EXPORT(BackwardBf16);

void attention_heads(const AttentionHeads<float>& a) { HWY_DYNAMIC_DISPATCH(Forward)(a); }
void attention_heads(const AttentionHeads<Bf16>& a) { HWY_DYNAMIC_DISPATCH(ForwardBf16)(a); }
void attention_heads_backward(const AttentionHeadsBackward<float>& a) { HWY_DYNAMIC_DISPATCH(Backward)(a); }
void attention_heads_backward(const AttentionHeadsBackward<Bf16>& a) { HWY_DYNAMIC_DISPATCH(BackwardBf16)(a); }

std::int64_t heads_together(const HeadShape& shape) { return group_of(shape); }

std::int64_t attention_scratch(const HeadShape& shape, bool dropout) {
  const std::int64_t row = row_of(shape);
  const std::int64_t of_tokens = 4 * shape.keys * row + 2 * kBlock * row + 2 * kBlock * (shape.width + 3);
  const std::int64_t of_scores = 2 * kBlock * shape.keys;
  const std::int64_t of_dropout = kBlock * (shape.keys + 3 + aligned_floats(shape.keys));
  return aligned_floats(of_tokens + of_scores + (dropout ? of_dropout : 0));
}

}  // namespace vitrail::cpu
#endif  // HWY_ONCE
