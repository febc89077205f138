#pragma once
// bfloat16, the upper half of an f32: eight bits of precision.

#include <bit>
#include <cmath>
#include <cstdint>

namespace vitrail {

/// One in memory.
struct Bf16 {
  std::uint16_t bits;
};

/// The nearest bfloat16, ties to even; NaN stays NaN.
inline Bf16 to_bf16(float x) {
  const auto bits = std::bit_cast<std::uint32_t>(x);
  if ((bits & 0x7FFFFFFFU) > 0x7F800000U) return {static_cast<std::uint16_t>((bits >> 16) | 0x40U)};
  return {static_cast<std::uint16_t>((bits + 0x7FFFU + ((bits >> 16) & 1U)) >> 16)};
}
inline float to_float(Bf16 x) { return std::bit_cast<float>(static_cast<std::uint32_t>(x.bits) << 16); }

/// The nearest bfloat16, ties to even. For magnitudes of normal f32 numbers, 0, infinities and NaN.
inline double round_to_bf16(double x) {
  if (!std::isfinite(x)) return x;
  int exponent = 0;
  const double fraction = std::frexp(x, &exponent);
  return std::ldexp(std::nearbyint(std::ldexp(fraction, 8)), exponent - 8);
}

}  // namespace vitrail
