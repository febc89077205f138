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
#else
HWY_INLINE void transpose_strip(const float* from, std::int64_t, float* to, std::int64_t to_stride) {
  for (std::int64_t c = 0; c < 4; ++c) to[c * to_stride] = from[c];
}
#endif

HWY_INLINE float as_float(float x) { return x; }
HWY_INLINE float as_float(Bf16 x) { return to_float(x); }

/// to[c * to_stride + r] = from[r * stride + c], r < rows, c < columns; zeros for rows <= r < padded, a multiple of the
/// number of lanes. T: float or Bf16.
template <class T>
void transpose(const T* from, std::int64_t stride, std::int64_t rows, std::int64_t columns, float* to,
               std::int64_t to_stride, std::int64_t padded) {
  const std::int64_t step = lanes();
  const std::int64_t whole = std::is_same_v<T, float> ? rows / step * step : 0;  // rows that fill vectors
  if constexpr (std::is_same_v<T, float>) {
    for (std::int64_t r = 0; r < whole; r += step) {
      const std::int64_t fours = columns / 4 * 4;
      for (std::int64_t c = 0; c < fours; c += 4)
        transpose_strip(from + r * stride + c, stride, to + c * to_stride + r, to_stride);
      for (std::int64_t c = fours; c < columns; ++c) {
        for (std::int64_t i = r; i < r + step; ++i) to[c * to_stride + i] = from[i * stride + c];
      }
    }
  }
  for (std::int64_t r = whole; r < padded; ++r) {
    for (std::int64_t c = 0; c < columns; ++c) to[c * to_stride + r] = r < rows ? as_float(from[r * stride + c]) : 0.0F;
  }
}

}  // namespace
}  // namespace vitrail::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
