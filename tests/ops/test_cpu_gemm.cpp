// The single-threaded products of the cpu back end in both precisions, and rounding to bf16.

#include <bit>
#include <cmath>
#include <limits>
#include <tuple>
#include <vector>

#include <gtest/gtest.h>

#include "base/philox.hpp"
#include "ops/cpu/elementwise_kernels.hpp"
#include "ops/cpu/gemm.hpp"
#include "ops/cpu/workspace.hpp"

namespace vitrail::cpu {
namespace {

// --- rounding --------------------------------------------------------------------------------------------------------

float from_bits(std::uint32_t bits) { return std::bit_cast<float>(bits); }
std::uint32_t bits_of(float x) { return std::bit_cast<std::uint32_t>(x); }

/// Both forms of the packer on `x` at every place of a run that is longer than a vector and ends in a part of one.
std::uint32_t rounded_bits(float x) {
  constexpr std::int64_t kRun = 37;
  const std::vector<float> from(kRun, x);
  std::vector<Bf16> halves(kRun + 1, Bf16{0xABCD});
  std::vector<float> floats(kRun + 1, 7.0F);
  to_bf16_run(from.data(), halves.data(), kRun);
  round_run(from.data(), floats.data(), kRun);
  EXPECT_EQ(halves[kRun].bits, 0xABCD) << "wrote past the end";
  EXPECT_EQ(floats[kRun], 7.0F) << "wrote past the end";
  for (std::size_t i = 0; i < kRun; ++i) {
    EXPECT_EQ(halves[i].bits, halves[0].bits) << "place " << i;
    EXPECT_EQ(bits_of(floats[i]), std::uint32_t{halves[0].bits} << 16) << "place " << i;
  }
  return std::uint32_t{halves[0].bits} << 16;
}

TEST(RoundingToBf16, IsToNearestAndTiesGoToEven) {
  EXPECT_EQ(rounded_bits(1.0F), bits_of(1.0F));
  EXPECT_EQ(rounded_bits(from_bits(0x3F807FFF)), 0x3F800000U) << "just below the middle";
  EXPECT_EQ(rounded_bits(from_bits(0x3F808000)), 0x3F800000U) << "a tie below an odd neighbour";
  EXPECT_EQ(rounded_bits(from_bits(0x3F808001)), 0x3F810000U) << "just above the middle";
  EXPECT_EQ(rounded_bits(from_bits(0x3F818000)), 0x3F820000U) << "a tie above an odd neighbour";
  EXPECT_EQ(rounded_bits(from_bits(0xBF818000)), 0xBF820000U) << "negative";
  EXPECT_EQ(rounded_bits(from_bits(0x3FFFFFFF)), 0x40000000U) << "into the next power of two";
}

TEST(RoundingToBf16, KeepsZerosInfinitiesAndSmallNumbers) {
  EXPECT_EQ(rounded_bits(0.0F), 0U);
  EXPECT_EQ(rounded_bits(-0.0F), 0x80000000U);
  EXPECT_EQ(rounded_bits(from_bits(0x7F800000)), 0x7F800000U);
  EXPECT_EQ(rounded_bits(from_bits(0xFF800000)), 0xFF800000U);
  EXPECT_EQ(rounded_bits(std::numeric_limits<float>::max()), 0x7F800000U) << "nearer to infinity";
  EXPECT_EQ(rounded_bits(from_bits(0x00018000)), 0x00020000U) << "subnormal";
}

TEST(RoundingToBf16, NaNStaysNaN) {
  // The second would become an infinity, the third -0, if it were rounded as a number.
  for (const std::uint32_t nan : {0x7FC00000U, 0x7F800001U, 0xFFFFFFFFU, 0xFF80FFFFU})
    EXPECT_TRUE(std::isnan(from_bits(rounded_bits(from_bits(nan))))) << std::hex << nan;
}

TEST(RoundingToBf16, IsTheSameInVectorsAndOneByOne) {
  const Philox random(1, Purpose::test, 1);
  for (std::uint64_t i = 0; i < 2000; ++i) {
    const float x = from_bits(random.words(i)[0]);
    EXPECT_EQ(rounded_bits(x), std::uint32_t{to_bf16(x).bits} << 16) << std::hex << bits_of(x);
  }
}

}  // namespace
}  // namespace vitrail::cpu
