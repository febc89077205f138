#pragma once
// IEEE half precision (f16), which we do not compute in: files that have it are read as f32, which is exact.

#include <bit>
#include <cstdint>
#include <cstring>

namespace vitrail {

inline float half_to_float(std::uint16_t half) {
  const std::uint32_t sign = (half & 0x8000U) << 16;
  const std::uint32_t exponent = (half >> 10) & 0x1FU;
  const std::uint32_t fraction = half & 0x3FFU;
  if (exponent == 0) {  // zero and denormal numbers: fraction * 2^-24
    const float magnitude = static_cast<float>(fraction) * 0x1p-24F;
    return std::bit_cast<float>(std::bit_cast<std::uint32_t>(magnitude) | sign);
  }
  const std::uint32_t wide = exponent == 0x1F ? 0xFFU : exponent + (127 - 15);
  return std::bit_cast<float>(sign | wide << 23 | fraction << 13);
}

/// `values` has room for `count` f32, and `count` halves in its second half: makes f32 of them in place.
inline void widen_halves(void* values, std::int64_t count) {
  auto* to = static_cast<std::byte*>(values);
  const std::byte* from = to + 2 * count;
  for (std::int64_t i = 0; i < count; ++i) {  // number i is written at or before the place that it was read from
    std::uint16_t half = 0;
    std::memcpy(&half, from + 2 * i, sizeof half);
    const float single = half_to_float(half);
    std::memcpy(to + 4 * i, &single, sizeof single);
  }
}

}  // namespace vitrail
