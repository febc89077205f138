#pragma once
// bfloat16, the upper half of an f32: eight bits of precision.

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

namespace vitrail {

/// One in memory.
struct Bf16 {
  std::uint16_t bits;
};

/// The nearest bfloat16, ties to even; NaN stays NaN, what is too large becomes an infinity.
inline double round_to_bf16(double x) {
  if (!std::isfinite(x)) return x;
  int exponent = 0;
  (void)std::frexp(x, &exponent);
  const int last = std::max(exponent - 8, -133);  // exponent of the last bit; below 2^-126 there are fewer bits
  const double rounded = std::ldexp(std::nearbyint(std::ldexp(x, -last)), last);
  return std::abs(rounded) < 0x1p128 ? rounded : std::copysign(std::numeric_limits<double>::infinity(), x);
}

/// The same in memory.
inline Bf16 to_bf16(float x) {
  const auto bits = std::bit_cast<std::uint32_t>(x);
  if ((bits & 0x7FFFFFFFU) > 0x7F800000U) return {static_cast<std::uint16_t>((bits >> 16) | 0x40U)};
  return {static_cast<std::uint16_t>((bits + 0x7FFFU + ((bits >> 16) & 1U)) >> 16)};
}
/// Rounds once: by way of the nearest f32 it would be twice.
inline Bf16 to_bf16(double x) { return to_bf16(static_cast<float>(round_to_bf16(x))); }
inline float to_float(Bf16 x) { return std::bit_cast<float>(static_cast<std::uint32_t>(x.bits) << 16); }

}  // namespace vitrail
