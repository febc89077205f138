#include <bit>
#include <cmath>
#include <limits>

#include <gtest/gtest.h>

#include "base/bf16.hpp"

namespace vitrail {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

TEST(Bf16, RoundsTiesToEven) {
  EXPECT_EQ(round_to_bf16(1.0), 1.0);
  EXPECT_EQ(round_to_bf16(1.0 + 0x1p-8), 1.0) << "between 1 and 1 + 2^-7, whose last bit is odd";
  EXPECT_EQ(round_to_bf16(1.0 + 0x3p-8), 1.0 + 0x2p-7);
  EXPECT_EQ(round_to_bf16(-1.0 - 0x3p-8), -1.0 - 0x2p-7);
  EXPECT_EQ(round_to_bf16(1.0 + 0x1p-8 + 0x1p-40), 1.0 + 0x1p-7) << "just above the middle";
  EXPECT_EQ(round_to_bf16(0x1.FFp0), 2.0) << "up into the next power of two";
}

TEST(Bf16, EndsWhereItsRangeEnds) {
  EXPECT_EQ(round_to_bf16(0x1.FEp127), 0x1.FEp127) << "the largest one";
  EXPECT_EQ(round_to_bf16(0x1.FEFFp127), 0x1.FEp127);
  EXPECT_EQ(round_to_bf16(0x1.FFp127), kInfinity);
  EXPECT_EQ(round_to_bf16(-1e300), -kInfinity);
  EXPECT_EQ(round_to_bf16(kInfinity), kInfinity);
  EXPECT_TRUE(std::isnan(round_to_bf16(std::nan(""))));
  EXPECT_EQ(round_to_bf16(0x1p-133), 0x1p-133) << "the smallest one";
  EXPECT_EQ(round_to_bf16(0x1p-134), 0.0) << "half of it, a tie";
  EXPECT_EQ(round_to_bf16(0x3p-134), 0x2p-133);
  EXPECT_EQ(round_to_bf16(1e-300), 0.0);
  EXPECT_TRUE(std::signbit(round_to_bf16(-0.0)));
}

// All upper halves of an f32: signs, exponents, infinities, NaN, subnormal numbers. Lower halves around 0 and the tie.
TEST(Bf16, InMemoryIsTheRoundedNumber) {
  for (std::uint32_t upper = 0; upper < (1U << 16); ++upper) {
    for (const std::uint32_t lower : {0x0U, 0x1U, 0x7FFFU, 0x8000U, 0x8001U, 0xFFFFU}) {
      const auto x = std::bit_cast<float>(upper << 16 | lower);
      const float stored = to_float(to_bf16(x));
      const double rounded = round_to_bf16(static_cast<double>(x));
      if (std::isnan(x)) {
        ASSERT_TRUE(std::isnan(stored) && std::isnan(rounded)) << std::hex << upper << ' ' << lower;
        continue;
      }
      ASSERT_EQ(static_cast<double>(stored), rounded) << x;
      ASSERT_EQ(std::signbit(stored), std::signbit(x)) << x;
      ASSERT_EQ(to_bf16(static_cast<double>(x)).bits, to_bf16(x).bits) << x;
    }
  }
}

TEST(Bf16, OfADoubleIsRoundedOnce) {
  const double x = 1.0 + 0x1p-8 + 0x1p-40;  // an f32 does not see the last bit, and has a tie
  EXPECT_EQ(to_float(to_bf16(x)), 1.0F + 0x1p-7F);
  EXPECT_EQ(to_float(to_bf16(static_cast<float>(x))), 1.0F);
}

}  // namespace
}  // namespace vitrail
