// Transposing 32-bit elements in registers. Included once per instruction set, see vector_math-inl.hpp.

#if defined(VITRAIL_OPS_CPU_TRANSPOSE_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef VITRAIL_OPS_CPU_TRANSPOSE_INL
#undef VITRAIL_OPS_CPU_TRANSPOSE_INL
#else
#define VITRAIL_OPS_CPU_TRANSPOSE_INL
#endif

#include <algorithm>

#include "ops/cpu/vector_math-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace vitrail::cpu::HWY_NAMESPACE {
namespace {

#if HWY_TARGET != HWY_SCALAR
/// Four elements each of rows that are `step` apart, one after the other.
template <class D>
HWY_INLINE hn::Vec<D> stack_of_fours(D d, const float* p, std::int64_t step) {
  if constexpr (hn::MaxLanes(D()) <= 4) {
    return hn::LoadU(d, p);
  } else {
    const hn::Half<D> half;
    constexpr auto kRows = static_cast<std::int64_t>(hn::MaxLanes(half) / 4);
    return hn::Combine(d, stack_of_fours(half, p + kRows * step, step), stack_of_fours(half, p, step));
  }
}

/// Four vectors; in every block of four lanes they become the transpose of what they were. No array: g++ -O2 would keep
/// that in memory.
template <class V>
struct Four {
  V a, b, c, d;
};
template <class D, class V>
HWY_INLINE Four<V> transpose_blocks(D d, const Four<V>& x) {
  const hn::Repartition<double, D> pairs;
  const auto low_ab = hn::BitCast(pairs, hn::InterleaveLower(d, x.a, x.b));
  const auto low_cd = hn::BitCast(pairs, hn::InterleaveLower(d, x.c, x.d));
  const auto high_ab = hn::BitCast(pairs, hn::InterleaveUpper(d, x.a, x.b));
  const auto high_cd = hn::BitCast(pairs, hn::InterleaveUpper(d, x.c, x.d));
  return {hn::BitCast(d, hn::InterleaveLower(pairs, low_ab, low_cd)),
          hn::BitCast(d, hn::InterleaveUpper(pairs, low_ab, low_cd)),
          hn::BitCast(d, hn::InterleaveLower(pairs, high_ab, high_cd)),
          hn::BitCast(d, hn::InterleaveUpper(pairs, high_ab, high_cd))};
}

/// to[c * to_stride + r] = from[r * stride + c] for as many rows as there are lanes and four columns: the loads have
/// put a block of every fourth row in one vector.
HWY_INLINE void transpose_strip(const float* from, std::int64_t stride, float* to, std::int64_t to_stride) {
  const Floats d;
  const Four<Vector> rows{stack_of_fours(d, from, 4 * stride), stack_of_fours(d, from + stride, 4 * stride),
                          stack_of_fours(d, from + 2 * stride, 4 * stride),
                          stack_of_fours(d, from + 3 * stride, 4 * stride)};
  const Four<Vector> columns = transpose_blocks(d, rows);
  store(columns.a, to);
  store(columns.b, to + to_stride);
  store(columns.c, to + 2 * to_stride);
  store(columns.d, to + 3 * to_stride);
}

/// Four vectors as four by four blocks of four lanes become the transpose of that.
template <class D, class V>
HWY_INLINE Four<V> transpose_of_blocks(D d, const Four<V>& x) {
  const V low_ac = hn::ConcatLowerLower(d, x.c, x.a);
  const V low_bd = hn::ConcatLowerLower(d, x.d, x.b);
  const V high_ac = hn::ConcatUpperUpper(d, x.c, x.a);
  const V high_bd = hn::ConcatUpperUpper(d, x.d, x.b);
  return {hn::OddEvenBlocks(hn::SwapAdjacentBlocks(low_bd), low_ac),
          hn::OddEvenBlocks(low_bd, hn::SwapAdjacentBlocks(low_ac)),
          hn::OddEvenBlocks(hn::SwapAdjacentBlocks(high_bd), high_ac),
          hn::OddEvenBlocks(high_bd, hn::SwapAdjacentBlocks(high_ac))};
}

/// to[c * to_stride + r] = from[r * stride + c] for sixteen rows and columns, with sixteen lanes. Every row is read
/// once: where rows lie a multiple of 4096 bytes apart, the first cache has no room for sixteen of them.
HWY_INLINE void transpose_square(const float* from, std::int64_t stride, float* to, std::int64_t to_stride) {
  const Floats d;
  const auto four_rows = [&](std::int64_t r) {
    const float* const row = from + r * stride;
    return transpose_blocks(
        d, Four<Vector>{load(row), load(row + stride), load(row + 2 * stride), load(row + 3 * stride)});
  };
  const Four<Vector> a = four_rows(0), b = four_rows(4), c = four_rows(8), e = four_rows(12);
  const auto put = [&](std::int64_t column, const Four<Vector>& x) {
    const Four<Vector> columns = transpose_of_blocks(d, x);
    store(columns.a, to + column * to_stride);
    store(columns.b, to + (column + 4) * to_stride);
    store(columns.c, to + (column + 8) * to_stride);
    store(columns.d, to + (column + 12) * to_stride);
  };
  put(0, {a.a, b.a, c.a, e.a});
  put(1, {a.b, b.b, c.b, e.b});
  put(2, {a.c, b.c, c.c, e.c});
  put(3, {a.d, b.d, c.d, e.d});
}

/// to[c * to_stride + r] = from[r * stride + c] for as many rows as there are lanes and `fours` columns, a multiple
/// of 4.
HWY_INLINE void transpose_columns(const float* from, std::int64_t stride, std::int64_t fours, float* to,
                                  std::int64_t to_stride) {
  std::int64_t sixteens = 0;
  if constexpr (kMostLanes == 16) {
    if (lanes() == 16) sixteens = fours / 16 * 16;
    for (std::int64_t c = 0; c < sixteens; c += 16) transpose_square(from + c, stride, to + c * to_stride, to_stride);
  }
  for (std::int64_t c = sixteens; c < fours; c += 4) transpose_strip(from + c, stride, to + c * to_stride, to_stride);
}
#else
HWY_INLINE void transpose_columns(const float* from, std::int64_t, std::int64_t fours, float* to,
                                  std::int64_t to_stride) {
  for (std::int64_t c = 0; c < fours; ++c) to[c * to_stride] = from[c];
}
#endif

/// to[c * to_stride + r] = from[r * stride + c], r < rows, c < columns; zeros for rows <= r < padded, a multiple of the
/// number of lanes.
HWY_INLINE void transpose(const float* from, std::int64_t stride, std::int64_t rows, std::int64_t columns, float* to,
                          std::int64_t to_stride, std::int64_t padded) {
  const std::int64_t step = lanes();
  const std::int64_t whole = rows / step * step;  // rows that fill vectors
  for (std::int64_t r = 0; r < whole; r += step) {
    const std::int64_t fours = columns / 4 * 4;
    transpose_columns(from + r * stride, stride, fours, to + r, to_stride);
    for (std::int64_t c = fours; c < columns; ++c) {
      for (std::int64_t i = r; i < r + step; ++i) to[c * to_stride + i] = from[i * stride + c];
    }
  }
  for (std::int64_t r = whole; r < padded; ++r) {
    for (std::int64_t c = 0; c < columns; ++c) to[c * to_stride + r] = r < rows ? from[r * stride + c] : 0.0F;
  }
}
/// The same of bf16, a block at a time.
HWY_INLINE void transpose(const Bf16* from, std::int64_t stride, std::int64_t rows, std::int64_t columns, float* to,
                          std::int64_t to_stride, std::int64_t padded) {
  constexpr std::int64_t kRows = 16, kColumns = 64;
  HWY_ALIGN float block[kRows * kColumns];
  for (std::int64_t r = 0; r < padded; r += kRows) {
    const std::int64_t height = std::clamp<std::int64_t>(rows - r, 0, kRows);
    for (std::int64_t c = 0; c < columns; c += kColumns) {
      const std::int64_t width = std::min(kColumns, columns - c);
      for (std::int64_t i = 0; i < height; ++i) {
        for_vectors(width, [&](std::int64_t j, std::int64_t count) {
          store(load(from + (r + i) * stride + c + j, count), block + i * kColumns + j, count);
        });
      }
      transpose(block, kColumns, height, width, to + c * to_stride + r, to_stride, std::min(kRows, padded - r));
    }
  }
}

}  // namespace
}  // namespace vitrail::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
