#include "ops/cpu/attention_kernels.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>

#include "ops/cpu/elementwise_kernels.hpp"
#include "ops/cpu/workspace.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/cpu/attention_kernels.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "ops/cpu/bf16_pairs-inl.hpp"
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
        std::memcpy(to + 4 * c + g, from + g * width + c, sizeof(float));  // or a pair
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

/// As rows of terms for a product over the channels: to [tokens, row], each with the pairs of its channels. And as rows
/// for one over the tokens: to [tokens / 2, row], each with the pairs of two tokens. Heads of a group side by side.
template <int kGroup>
void pack_channel_pairs(const Rows<const Bf16>& from, std::int64_t tokens, std::int64_t padded, float* to,
                        std::int64_t row) {
  const std::int64_t pairs = from.width / 2;
  for (std::int64_t t = 0; t < tokens; ++t) {
    const Bf16* const x = from.first + t * from.stride;
    if constexpr (kGroup == 1) {
      std::memcpy(to + t * row, x, static_cast<std::size_t>(4 * pairs));
    } else {
#if HWY_TARGET != HWY_SCALAR
      interleave(reinterpret_cast<const float*>(x), pairs, to + t * row);
#endif
    }
  }
  std::fill_n(to + tokens * row, (padded - tokens) * row, 0.0F);
}
template <int kGroup>
void pack_token_pairs(const Rows<const Bf16>& from, std::int64_t tokens, float* to, std::int64_t row) {
  const std::int64_t n = kGroup * from.width;
  for (std::int64_t t = 0; t < tokens; t += 2, to += row) {
    const Bf16* const even = from.first + t * from.stride;
    const Bf16* const odd = t + 1 < tokens ? even + from.stride : nullptr;
    if constexpr (kGroup == 1) {
      pair_rows(even, odd, n, reinterpret_cast<std::uint32_t*>(to));
    } else {
#if HWY_TARGET != HWY_SCALAR
      HWY_ALIGN float heads[kTogether * kNarrow];
      pair_rows(even, odd, n, reinterpret_cast<std::uint32_t*>(heads));
      interleave(heads, from.width, to);
      for (std::int64_t i = n; i % lanes() != 0; ++i) to[i] = 0.0F;
#endif
    }
  }
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

/// To bf16 by the instruction that rounds, if kPairs.
template <bool kPairs, class T>
HWY_INLINE void put(Vector x, T* to) {
#if VITRAIL_OPS_CPU_MULTIPLIES_PAIRS
  if constexpr (kPairs) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), round_one(x));
    return;
  }
#endif
  store(x, to);
}

/// to = from [tokens, row], which is changed, with heads of a group apart, times scale [tokens, kGroup], or scale
/// [kGroup] for all.
template <int kGroup, bool kPairs, bool kScales, class T>
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
      if (to.width == lanes()) {
        const auto scaled = [&](int i) { return hn::Mul(load(x + i * lanes()), factors); };
        const Four<Vector> of_heads =
            transpose_blocks(Floats(), Four<Vector>{scaled(0), scaled(1), scaled(2), scaled(3)});
        put<kPairs>(of_heads.a, y);
        put<kPairs>(of_heads.b, y + lanes());
        put<kPairs>(of_heads.c, y + 2 * lanes());
        put<kPairs>(of_heads.d, y + 3 * lanes());
        continue;
      }
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

#if VITRAIL_OPS_CPU_MULTIPLIES_PAIRS
HWY_INLINE void store_words(__m512i words, float* to) { _mm512_storeu_si512(to, words); }
/// The two rows that round_both has put together, as pairs of the queries of a head, `stride` apart; or the first row
/// alone.
template <int kGroup>
HWY_INLINE void store_rows(__m512i rows, bool first_alone, float* to, std::int64_t stride) {
  if constexpr (kGroup == kTogether) rows = paired_by_fours(rows);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_castsi512_si256(rows));
  if (!first_alone) _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + stride), _mm512_extracti64x4_epi64(rows, 1));
}
#endif

/// scores [keys, columns] -> e^(scale * score - top) of kVectors vectors of columns, not normalised, times the factors
/// of dropout; with kPairs [keys / 2, columns], the pairs of two keys. totals = their sums over the keys without these
/// factors, tops = scale * the largest scores.
template <int kVectors, bool kPairs, bool kDropout>
void exponentiate_some(float* scores, const float* factors, std::int64_t keys, std::int64_t columns, float scale,
                       float* tops, float* totals) {
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
    const auto exponential = [&](std::int64_t key, int v) {
      const std::int64_t i = key * columns + v * step;
      const Vector p = quick_exp(hn::MulSub(load(scores + i), scales, top[v]));
      run[v] = hn::Add(run[v], p);
      return kDropout ? hn::Mul(p, load(factors + i)) : p;
    };
    for (std::int64_t key = first; key < std::min(keys, first + kRun); key += kPairs ? 2 : 1) {
      for (int v = 0; v < kVectors; ++v) {
        const Vector p = exponential(key, v);
#if VITRAIL_OPS_CPU_MULTIPLIES_PAIRS
        if constexpr (kPairs) {
          const Vector next = key + 1 < keys ? exponential(key + 1, v) : zero();
          store_words(paired(round_both(p, next)), scores + key / 2 * columns + v * step);
          continue;
        }
#endif
        store(p, scores + key * columns + v * step);
      }
    }
    for (int v = 0; v < kVectors; ++v) total[v] = hn::Add(total[v], run[v]);
  }
  for (int v = 0; v < kVectors; ++v) {
    store(top[v], tops + v * step);
    store(total[v], totals + v * step);
  }
}

/// Scores of a block of queries and their gradients. What products need of them takes their place; in pairs, what
/// counts keys in pairs has one of its own.
struct ScoreGradients {
  float* scores;         // [keys, columns]; then probabilities times the factors of dropout, in pairs of queries
  float* dscores;        // [keys, columns]; of these probabilities; then of scores, in pairs of queries
  float* dscores_pairs;  // [keys / 2, columns]; of scores, in pairs of keys
  const float* factors;  // [keys, columns]; of dropout
  std::int64_t keys, columns;
  float scale;
  const float* log_sum_exp;  // [columns]
};

/// p = e^(scale * score - log_sum_exp), dp *= factor; delta = the sum over the keys of p dp; then dscores = p (dp -
/// delta), in the place of dp, and scores = factor * p. Of kVectors vectors of columns from `column` on. delta is
/// divided by the sum of p: log_sum_exp is rounded, so that is 1 only nearly when scores are large.
template <int kGroup, int kVectors, bool kPairs, bool kDropout>
void score_gradients_some(const ScoreGradients& g, std::int64_t column) {
  const std::int64_t step = lanes();
  const std::int64_t keys = g.keys, columns = g.columns;
  float* const scores = g.scores + column;
  float* const dscores = g.dscores + column;
  const float* const log_sum_exp = g.log_sum_exp + column;
  const Vector scales = set(g.scale);
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
          dp = hn::Mul(dp, load(g.factors + column + i));
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
  const auto dropped = [&](std::int64_t i) {
    return kDropout ? hn::Mul(load(scores + i), load(g.factors + column + i)) : load(scores + i);
  };
  const auto gradient = [&](std::int64_t i, int v) {
    return hn::Mul(load(scores + i), hn::Sub(load(dscores + i), delta[v]));
  };
  for (std::int64_t key = 0; key < keys; key += kPairs ? 2 : 1) {
    for (int v = 0; v < kVectors; ++v) {
      const std::int64_t i = key * columns + v * step;
#if VITRAIL_OPS_CPU_MULTIPLIES_PAIRS
      if constexpr (kPairs) {
        const bool last = key + 1 == keys;
        const Vector p = dropped(i), ds = gradient(i, v);
        const auto both_p = round_both(p, last ? zero() : dropped(i + columns));
        const auto both_ds = round_both(ds, last ? zero() : gradient(i + columns, v));
        // Before the vectors that are still to be read.
        const std::int64_t place = key * columns + (column + v * step) / 2;
        store_rows<kGroup>(both_p, last, g.scores + place, columns);
        store_rows<kGroup>(both_ds, last, g.dscores + place, columns);
        store_words(paired(both_ds), g.dscores_pairs + key / 2 * columns + column + v * step);
        continue;
      }
#endif
      const Vector ds = gradient(i, v);
      if constexpr (kDropout) store(dropped(i), scores + i);
      store(ds, dscores + i);
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

/// body(whether there are factors of dropout, as a constant).
template <class Body>
HWY_INLINE void with_dropout(const float* factors, const Body& body) {
  if (factors != nullptr) {
    body(std::true_type());
  } else {
    body(std::false_type());
  }
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
  std::int64_t row;       // floats of a packed row of channels
  std::int64_t used;      // the part of it that is computed
  std::int64_t terms;     // of a sum over the channels: floats of a head, or pairs
  std::int64_t term_row;  // floats of a row of them
  std::int64_t stride;    // of tokens in the tensors
  float scale;
  template <int kGroup, bool kPairs>
  static Sizes of(const HeadShape& n) {
    return {n,
            row_of(n),
            whole_vectors(n.width * kGroup),
            kPairs ? n.width / 2 : n.width,
            kPairs ? aligned_floats(n.width / 2 * kGroup) : row_of(n),
            n.heads * n.width,
            1.0F / std::sqrt(static_cast<float>(n.width))};
  }
};

/// The factors [keys, columns] of the dropout of a block of queries of head `head` and its group, drawn at `place`: the
/// rows that they are drawn in lie behind them, [columns, keys]. nullptr without a dropout.
template <int kGroup, class Heads>
const float* draw_factors(const Heads& a, std::int64_t head, const Block& block, float* place) {
  if (a.dropout == nullptr) return nullptr;
  const HeadShape& n = a.shape;
  float* const drawn = place + n.keys * kBlock;
  const std::int64_t row = aligned_floats(n.keys);
  for (std::int64_t q = 0; q < block.queries; ++q) {
    for (std::int64_t g = 0; g < kGroup; ++g) {
      const std::int64_t at = ((head + g) * n.queries + block.first + q) * n.keys;
      dropout_factors(*a.dropout, a.first_index + static_cast<std::uint64_t>(at), n.keys,
                      drawn + (q * kGroup + g) * row);
    }
  }
  transpose(drawn, row, block.columns, n.keys, place, block.columns, block.columns);
  return place;
}

/// Some tokens of a group of heads will be needed, to read or to write.
template <int kGroup, class T>
void ask_for(Upcoming& upcoming, const HeadShape& n, const T* x, std::int64_t head, std::int64_t tokens) {
  constexpr auto kSize = static_cast<std::int64_t>(sizeof(T));
  if (tokens > 0) upcoming.add(x + head * n.width, kGroup * n.width * kSize, n.heads * n.width * kSize, tokens);
}

/// Of a sum over so many queries or keys.
template <bool kPairs>
std::int64_t terms_of(std::int64_t tokens) {
  return kPairs ? (tokens + 1) / 2 : tokens;
}

/// Rows for sums over the channels; and for sums over the tokens, which are the same but in pairs.
template <int kGroup, bool kPairs, class T>
void pack_terms(const Rows<const T>& from, std::int64_t tokens, std::int64_t padded, bool round, const Sizes& s,
                float* terms) {
  if constexpr (kPairs) {
    pack_channel_pairs<kGroup>(from, tokens, padded, terms, s.term_row);
  } else {
    pack_rows<kGroup>(from, tokens, padded, round, terms, s.row);
  }
}
template <int kGroup, bool kPairs, class T>
void pack_both(const Rows<const T>& from, std::int64_t tokens, std::int64_t padded, bool round, const Sizes& s,
               float* terms, float* rows) {
  pack_terms<kGroup, kPairs>(from, tokens, padded, round, s, terms);
  if constexpr (kPairs) pack_token_pairs<kGroup>(from, tokens, rows, s.row);
}

template <int kGroup, bool kPairs, class T>
void forward_group(const AttentionHeads<T>& a, std::int64_t head) {
  const HeadShape& n = a.shape;
  Upcoming upcoming;  // the next group's tensors
  if (head + kGroup < a.count) {
    const auto need = [&](const T* x, std::int64_t tokens) { ask_for<kGroup>(upcoming, n, x, head + kGroup, tokens); };
    need(a.k, n.keys);
    need(a.v, n.keys);
    need(a.q, n.queries);
    need(a.out, n.queries);
  }
  const Sizes s = Sizes::of<kGroup, kPairs>(n);
  const bool round = a.products == AttentionProducts::f32_of_rounded;
  float* place = a.scratch;
  const auto take = [&](std::int64_t count) { return std::exchange(place, place + aligned_floats(count)); };
  float* const keys = take(n.keys * s.term_row);
  float* const values = take(terms_of<kPairs>(n.keys) * s.row);
  float* const rows = take(kBlock * s.row);  // of queries, later of `out`
  float* const queries = take(kBlock * (n.width + 3));
  float* const scores = take(n.keys * kBlock);
  const auto in = [&](const T* x) { return Rows<const T>{x + head * n.width, s.stride, n.width}; };
  const auto token = [&](Rows<const T> x, std::int64_t t) {
    x.first += t * s.stride;
    return x;
  };
  pack_terms<kGroup, kPairs>(in(a.k), n.keys, n.keys, round, s, keys);
  if constexpr (kPairs) {
    pack_token_pairs<kGroup>(in(a.v), n.keys, values, s.row);
  } else {
    pack_rows<kGroup>(in(a.v), n.keys, n.keys, round, values, s.row);
  }
  for_blocks<kGroup>(n.queries, [&](const Block& block) {
    const std::int64_t columns = block.columns;
    pack_terms<kGroup, kPairs>(token(in(a.q), block.first), block.queries, columns / kGroup, round, s, rows);
    pack_columns<kGroup>(rows, s.term_row, s.terms, queries, columns);
    small_gemm<kGroup, kPairs>(
        {n.keys, columns, s.terms, keys, s.term_row, kGroup, queries, columns, scores, columns, false, &upcoming});
    HWY_ALIGN float tops[kBlock];
    HWY_ALIGN float totals[kBlock];
    const float* const factors = draw_factors<kGroup>(a, head, block, place);
    with_dropout(factors, [&](auto dropout) {
      for_columns(columns, [&](auto vectors, std::int64_t c) {
        exponentiate_some<vectors(), kPairs, dropout()>(scores + c, dropout() ? factors + c : nullptr, n.keys, columns,
                                                        s.scale, tops + c, totals + c);
      });
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
    small_gemm<kGroup, kPairs>({block.queries, s.used, terms_of<kPairs>(n.keys), scores, kGroup, columns, values, s.row,
                                rows, s.row, false, &upcoming});
    unpack_rows<kGroup, kPairs, true>(rows, s.row, block.queries, totals,
                                      Rows<T>{a.out + head * n.width + block.first * s.stride, s.stride, n.width});
  });
}

template <int kGroup, bool kPairs, class T>
void backward_group(const AttentionHeadsBackward<T>& a, std::int64_t head) {
  const HeadShape& n = a.shape;
  Upcoming upcoming;  // the next group's tensors
  if (head + kGroup < a.count) {
    const auto need = [&](const T* x, std::int64_t tokens) { ask_for<kGroup>(upcoming, n, x, head + kGroup, tokens); };
    for (const T* x : {a.k, a.v}) need(x, n.keys);
    for (const T* x : {a.q, a.dout}) need(x, n.queries);
    need(a.dq, n.queries);
    for (const T* x : {a.dk, a.dv}) need(x, n.keys);
  }
  const Sizes s = Sizes::of<kGroup, kPairs>(n);
  const bool round = a.products == AttentionProducts::f32_of_rounded;
  float* place = a.scratch;
  const auto take = [&](std::int64_t count) { return std::exchange(place, place + aligned_floats(count)); };
  const auto take_pairs = [&](std::int64_t count, float* same) { return kPairs ? take(count) : same; };
  const std::int64_t key_terms = terms_of<kPairs>(n.keys);
  float* const keys = take(n.keys * s.term_row);
  float* const key_rows = take_pairs(key_terms * s.row, keys);
  float* const values = take(n.keys * s.term_row);
  float* const query_rows = take(kBlock * s.row);
  float* const query_terms = take_pairs(kBlock * s.term_row, query_rows);
  float* const dout_rows = take(kBlock * s.row);
  float* const dout_terms = take_pairs(kBlock * s.term_row, dout_rows);
  float* const queries = take(kBlock * (n.width + 3));
  float* const douts = take(kBlock * (n.width + 3));
  float* const scores = take(n.keys * kBlock);
  float* const dscores = take(n.keys * kBlock);
  float* const dscores_pairs = take_pairs(key_terms * kBlock, dscores);
  float* const dkeys = take(n.keys * s.row);
  float* const dvalues = take(n.keys * s.row);
  float* const dqueries = query_rows;
  const auto in = [&](const T* x, std::int64_t t) {
    return Rows<const T>{x + head * n.width + t * s.stride, s.stride, n.width};
  };
  const auto out = [&](T* x, std::int64_t t) { return Rows<T>{x + head * n.width + t * s.stride, s.stride, n.width}; };
  const float scale[kTogether] = {s.scale, s.scale, s.scale, s.scale};
  const float one[kTogether] = {1.0F, 1.0F, 1.0F, 1.0F};
  pack_both<kGroup, kPairs>(in(a.k, 0), n.keys, n.keys, round, s, keys, key_rows);
  pack_terms<kGroup, kPairs>(in(a.v, 0), n.keys, n.keys, round, s, values);
  if (n.queries == 0) {
    std::fill_n(dkeys, n.keys * s.row, 0.0F);
    std::fill_n(dvalues, n.keys * s.row, 0.0F);
  }
  for_blocks<kGroup>(n.queries, [&](const Block& block) {
    const std::int64_t columns = block.columns;
    const auto pack_queries = [&](const T* x, float* terms, float* rows, float* to) {
      pack_both<kGroup, kPairs>(in(x, block.first), block.queries, columns / kGroup, round, s, terms, rows);
      pack_columns<kGroup>(terms, s.term_row, s.terms, to, columns);
    };
    pack_queries(a.q, query_terms, query_rows, queries);
    pack_queries(a.dout, dout_terms, dout_rows, douts);
    const auto over_channels = [&](const float* rows, const float* of_queries, float* to) {
      small_gemm<kGroup, kPairs>(
          {n.keys, columns, s.terms, rows, s.term_row, kGroup, of_queries, columns, to, columns, false, &upcoming});
    };
    over_channels(keys, queries, scores);
    over_channels(values, douts, dscores);
    HWY_ALIGN float logs[kBlock] = {};
    for (std::int64_t g = 0; g < kGroup; ++g) {
      for (std::int64_t q = 0; q < block.queries; ++q)
        logs[q * kGroup + g] = a.log_sum_exp[(head + g) * n.queries + block.first + q];
    }
    const float* const factors = draw_factors<kGroup>(a, head, block, place);
    const ScoreGradients gradients{scores, dscores, dscores_pairs, factors, n.keys, columns, s.scale, logs};
    with_dropout(factors, [&](auto dropout) {
      for_columns(columns, [&](auto vectors, std::int64_t c) {
        score_gradients_some<kGroup, vectors(), kPairs, dropout()>(gradients, c);
      });
    });
    const auto over_queries = [&](const float* of_keys, const float* rows, float* to) {
      small_gemm<kGroup, kPairs>({n.keys, s.used, terms_of<kPairs>(block.queries), of_keys, columns, kGroup, rows,
                                  s.row, to, s.row, block.first > 0, &upcoming});
    };
    over_queries(scores, dout_rows, dvalues);
    over_queries(dscores, query_rows, dkeys);
    small_gemm<kGroup, kPairs>({block.queries, s.used, key_terms, dscores_pairs, kGroup, columns, key_rows, s.row,
                                dqueries, s.row, false, &upcoming});
    unpack_rows<kGroup, kPairs, false>(dqueries, s.row, block.queries, scale, out(a.dq, block.first));
  });
  unpack_rows<kGroup, kPairs, false>(dkeys, s.row, n.keys, scale, out(a.dk, 0));
  unpack_rows<kGroup, kPairs, false>(dvalues, s.row, n.keys, one, out(a.dv, 0));
}

/// pass(heads of a group as a constant, whether in pairs as a constant, head) for the heads of a.
template <class Heads, class Pass>
void for_groups(const Heads& a, const Pass& pass) {
  using T = std::remove_cvref_t<decltype(*a.q)>;
  const auto of = [&](auto pairs) {
    std::int64_t head = 0;
#if HWY_TARGET != HWY_SCALAR
    for (; group_of(a.shape) == kTogether && head < a.count; head += kTogether)
      pass(std::integral_constant<int, kTogether>(), pairs, head);
#endif
    for (; head < a.count; ++head) pass(std::integral_constant<int, 1>(), pairs, head);
  };
  if constexpr (VITRAIL_OPS_CPU_MULTIPLIES_PAIRS && std::is_same_v<T, Bf16>) {
    if (a.products == AttentionProducts::bf16_pairs) return of(std::true_type());
  }
  of(std::false_type());
}

template <class T>
void forward(const AttentionHeads<T>& a) {
  for_groups(a, [&](auto group, auto pairs, std::int64_t head) { forward_group<group(), pairs()>(a, head); });
}
template <class T>
void backward(const AttentionHeadsBackward<T>& a) {
  for_groups(a, [&](auto group, auto pairs, std::int64_t head) { backward_group<group(), pairs()>(a, head); });
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

std::int64_t attention_scratch(const HeadShape& shape, bool dropout, AttentionProducts products) {
  const std::int64_t row = row_of(shape);
  const std::int64_t of_tokens = 4 * shape.keys * row + 2 * kBlock * row + 2 * kBlock * (shape.width + 3);
  const std::int64_t of_scores = 2 * kBlock * shape.keys;
  const std::int64_t of_dropout = kBlock * (shape.keys + 3 + aligned_floats(shape.keys));
  const std::int64_t of_pairs = (shape.keys + 1) / 2 * (row + kBlock) + 2 * kBlock * row;
  return aligned_floats(of_tokens + of_scores + (dropout ? of_dropout : 0) +
                        (products == AttentionProducts::bf16_pairs ? of_pairs : 0));
}

}  // namespace vitrail::cpu
#endif  // HWY_ONCE
