#include <bit>
#include <cmath>
#include <cstdint>

#include <gtest/gtest.h>

#include "base/bf16.hpp"
#include "cuda_bf16.h"

namespace vitrail::emulated {
namespace {

TEST(Bf16, RoundsToTheNearestTiesToEven) {
  EXPECT_EQ(__bfloat16_as_ushort(__float2bfloat16_rn(1.0F)), 0x3F80);
  EXPECT_EQ(__bfloat16_as_ushort(__float2bfloat16_rn(1.00390625F)), 0x3F80);  // halfway: to even, down
  EXPECT_EQ(__bfloat16_as_ushort(__float2bfloat16_rn(1.01171875F)), 0x3F82);  // halfway: to even, up
  EXPECT_EQ(__bfloat16_as_ushort(__float2bfloat16_rn(std::nextafter(1.00390625F, 2.0F))), 0x3F81);
  EXPECT_EQ(__bfloat16_as_ushort(__float2bfloat16_rn(3.4e38F)), 0x7F80);
  EXPECT_TRUE(std::isnan(__bfloat162float(__float2bfloat16_rn(NAN))));
}

// Every upper half with lower halves around all places where rounding changes.
TEST(Bf16, AgreesWithOurOwn) {
  for (std::uint32_t upper = 0; upper < 0x10000; ++upper) {
    for (const std::uint32_t lower : {0x0U, 0x1U, 0x7FFFU, 0x8000U, 0x8001U, 0xFFFFU}) {
      const auto x = std::bit_cast<float>(upper << 16 | lower);
      if (std::isnan(x)) continue;
      ASSERT_EQ(__bfloat16_as_ushort(__float2bfloat16_rn(x)), to_bf16(x).bits) << std::hex << upper << ' ' << lower;
    }
  }
}

TEST(Bf16, PairsKeepTheirOrder) {
  const __nv_bfloat162 pair = __float22bfloat162_rn(make_float2(1.0F, 2.0F));
  EXPECT_EQ(__low2float(pair), 1.0F);
  EXPECT_EQ(__high2float(pair), 2.0F);
  EXPECT_EQ(std::bit_cast<std::uint32_t>(pair), 0x40003F80U);
  EXPECT_EQ(__bfloat1622float2(pair).y, 2.0F);
}

}  // namespace
}  // namespace vitrail::emulated
