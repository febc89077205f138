#include <bit>
#include <cmath>
#include <vector>

#include <gtest/gtest.h>

#include "convert/half.hpp"

namespace vitrail {
namespace {

TEST(Half, IsReadExactly) {
  EXPECT_EQ(half_to_float(0x3C00), 1.0F);
  EXPECT_EQ(half_to_float(0xC000), -2.0F);
  EXPECT_EQ(half_to_float(0x7BFF), 65504.0F);
  EXPECT_EQ(half_to_float(0x0400), 0x1p-14F);
  EXPECT_EQ(half_to_float(0x0001), 0x1p-24F);
  EXPECT_EQ(half_to_float(0x83FF), -1023 * 0x1p-24F);
  EXPECT_EQ(std::bit_cast<std::uint32_t>(half_to_float(0x8000)), 0x80000000U);
  EXPECT_EQ(half_to_float(0x7C00), HUGE_VALF);
  EXPECT_EQ(half_to_float(0xFC00), -HUGE_VALF);
  EXPECT_TRUE(std::isnan(half_to_float(0x7E01)));
}

TEST(Half, EveryFiniteNumberIsItsFormula) {
  for (std::uint32_t bits = 0; bits < 0x7C00; ++bits) {  // (-1)^s 2^(e - 15) 1.f, and 2^-14 0.f for e = 0
    const int exponent = static_cast<int>(bits >> 10);
    const auto fraction = static_cast<float>(bits & 0x3FF);
    const float value = exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25);
    ASSERT_EQ(half_to_float(static_cast<std::uint16_t>(bits)), value) << bits;
    ASSERT_EQ(half_to_float(static_cast<std::uint16_t>(bits | 0x8000)), -value) << bits;
  }
}

TEST(Half, WidensInPlace) {
  for (const std::size_t count : {std::size_t{0}, std::size_t{1}, std::size_t{2}, std::size_t{1000}}) {
    std::vector<float> values(count);
    for (std::size_t i = 0; i < count; ++i) {
      const auto half = static_cast<std::uint16_t>(i * 31);
      std::memcpy(reinterpret_cast<std::byte*>(values.data()) + 2 * count + 2 * i, &half, 2);
    }
    widen_halves(values.data(), static_cast<std::int64_t>(count));
    for (std::size_t i = 0; i < count; ++i) {
      ASSERT_EQ(values[i], half_to_float(static_cast<std::uint16_t>(i * 31))) << i << " of " << count;
    }
  }
}

}  // namespace
}  // namespace vitrail
