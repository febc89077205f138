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

/// to[c * to_stride + r] = from[r * stride + c] for a square of as many rows as there are lanes. Blocks of four times
/// four are transposed where they are; the loads have put four of a column's blocks in one vector.
HWY_INLINE void transpose_square(const float* from, std::int64_t stride, float* to, std::int64_t to_stride) {
  const Floats d;
  const hn::Repartition<std::uint64_t, Floats> wide;
  for (std::int64_t c = 0; c < lanes(); c += 4) {
    const Vector x0 = stack_of_fours(d, from + c, 4 * stride);
    const Vector x1 = stack_of_fours(d, from + stride + c, 4 * stride);
    const Vector x2 = stack_of_fours(d, from + 2 * stride + c, 4 * stride);
    const Vector x3 = stack_of_fours(d, from + 3 * stride + c, 4 * stride);
    const auto low01 = hn::BitCast(wide, hn::InterleaveLower(d, x0, x1));
    const auto high01 = hn::BitCast(wide, hn::InterleaveUpper(d, x0, x1));
    const auto low23 = hn::BitCast(wide, hn::InterleaveLower(d, x2, x3));
    const auto high23 = hn::BitCast(wide, hn::InterleaveUpper(d, x2, x3));
    float* const y = to + c * to_stride;
    store(hn::BitCast(d, hn::InterleaveLower(wide, low01, low23)), y);
    store(hn::BitCast(d, hn::InterleaveUpper(wide, low01, low23)), y + to_stride);
    store(hn::BitCast(d, hn::InterleaveLower(wide, high01, high23)), y + 2 * to_stride);
    store(hn::BitCast(d, hn::InterleaveUpper(wide, high01, high23)), y + 3 * to_stride);
  }
}
#else
HWY_INLINE void transpose_square(const float* from, std::int64_t, float* to, std::int64_t) { *to = *from; }
#endif

HWY_INLINE float as_float(float x) { return x; }
HWY_INLINE float as_float(Bf16 x) { return to_float(x); }

/// to[c * to_stride + r] = from[r * stride + c], r < rows, c < columns; zeros for rows <= r < padded, a multiple of the
/// number of lanes. T: float or Bf16.
template <class T>
void transpose(const T* from, std::int64_t stride, std::int64_t rows, std::int64_t columns, float* to,
               std::int64_t to_stride, std::int64_t padded) {
  const std::int64_t step = lanes();
  const std::int64_t squares = std::is_same_v<T, float> ? rows / step * step : 0;  // rows in squares of vectors
  if constexpr (std::is_same_v<T, float>) {
    for (std::int64_t r = 0; r < squares; r += step) {
      std::int64_t c = 0;
      for (; c + step <= columns; c += step)
        transpose_square(from + r * stride + c, stride, to + c * to_stride + r, to_stride);
      for (; c < columns; ++c) {
        for (std::int64_t i = r; i < r + step; ++i) to[c * to_stride + i] = from[i * stride + c];
      }
    }
  }
  for (std::int64_t r = squares; r < padded; ++r) {
    for (std::int64_t c = 0; c < columns; ++c) to[c * to_stride + r] = r < rows ? as_float(from[r * stride + c]) : 0.0F;
  }
}

}  // namespace
}  // namespace vitrail::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
