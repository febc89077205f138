#pragma once
// bfloat16 of the toolkit: storage and conversions, which round to the nearest, ties to even.

#include <bit>
#include <cstdint>

#include "vector_types.h"

struct __nv_bfloat16_raw {
  unsigned short x;
};

/// Trivial, as in device code: an unset one holds anything. NaN becomes 0x7FFF, as the toolkit's conversion makes it.
struct alignas(2) __nv_bfloat16 {
  unsigned short __x;

  __nv_bfloat16() = default;
  constexpr __nv_bfloat16(__nv_bfloat16_raw raw) : __x(raw.x) {}  // NOLINT(google-explicit-constructor)
  constexpr __nv_bfloat16(float value) : __x(rounded(value)) {}   // NOLINT(google-explicit-constructor)
  constexpr operator float() const {                              // NOLINT(google-explicit-constructor)
    return std::bit_cast<float>(static_cast<std::uint32_t>(__x) << 16);
  }

 private:
  static constexpr unsigned short rounded(float value) {
    const auto bits = std::bit_cast<std::uint32_t>(value);
    if ((bits & 0x7FFFFFFFU) > 0x7F800000U) return 0x7FFFU;
    return static_cast<unsigned short>((bits + 0x7FFFU + ((bits >> 16) & 1U)) >> 16);
  }
};
using nv_bfloat16 = __nv_bfloat16;

struct alignas(4) __nv_bfloat162 {
  __nv_bfloat16 x, y;
};
using nv_bfloat162 = __nv_bfloat162;

constexpr __nv_bfloat16 __float2bfloat16(float value) { return {value}; }
constexpr __nv_bfloat16 __float2bfloat16_rn(float value) { return {value}; }
constexpr float __bfloat162float(__nv_bfloat16 value) { return value; }
constexpr __nv_bfloat162 __floats2bfloat162_rn(float x, float y) { return {x, y}; }
constexpr __nv_bfloat162 __float22bfloat162_rn(float2 value) { return {value.x, value.y}; }
constexpr float2 __bfloat1622float2(__nv_bfloat162 value) { return {value.x, value.y}; }
constexpr __nv_bfloat162 __halves2bfloat162(__nv_bfloat16 x, __nv_bfloat16 y) { return {x, y}; }
constexpr float __low2float(__nv_bfloat162 value) { return value.x; }
constexpr float __high2float(__nv_bfloat162 value) { return value.y; }
constexpr __nv_bfloat16 __low2bfloat16(__nv_bfloat162 value) { return value.x; }
constexpr __nv_bfloat16 __high2bfloat16(__nv_bfloat162 value) { return value.y; }
constexpr unsigned short __bfloat16_as_ushort(__nv_bfloat16 value) { return value.__x; }
constexpr __nv_bfloat16 __ushort_as_bfloat16(unsigned short bits) { return __nv_bfloat16_raw{bits}; }
