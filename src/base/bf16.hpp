#pragma once
// bfloat16, the upper half of an f32: eight bits of precision.

#include <cmath>

namespace vitrail {

/// The nearest bfloat16, ties to even. For magnitudes of normal f32 numbers, 0, infinities and NaN.
inline double round_to_bf16(double x) {
  if (!std::isfinite(x)) return x;
  int exponent = 0;
  const double fraction = std::frexp(x, &exponent);
  return std::ldexp(std::nearbyint(std::ldexp(fraction, 8)), exponent - 8);
}

}  // namespace vitrail
