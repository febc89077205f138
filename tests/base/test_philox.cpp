#include <array>
#include <cmath>

#include <gtest/gtest.h>

#include "base/philox.hpp"

namespace vitrail {
namespace {

using Words = std::array<std::uint32_t, 4>;

// The known answers of Random123 1.14 (tests/kat_vectors, philox4x32 with 10 rounds).
TEST(Philox, GivesTheKnownAnswersOfItsAuthors) {
  EXPECT_EQ(Philox::rounds({0, 0, 0, 0}, {0, 0}), (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(Philox::rounds({~0U, ~0U, ~0U, ~0U}, {~0U, ~0U}), (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(Philox::rounds({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Philox, PutsIndexStepPurposeAndLayerWhereTheManualSays) {
  const Philox random(0x1122334455667788U, Purpose::shuffle, 9, 5);
  EXPECT_EQ(random.words(0xAABBCCDD00000007U),
            Philox::rounds({0x00000007, 0xAABBCCDD, 9, (3U << 16) | 5}, {0x55667788, 0x11223344}));
  EXPECT_EQ(random.bits(4 * 3 + 2), random.words(3)[2]);
}

TEST(Philox, GivesUniformsInsideTheOpenInterval) {
  const Philox random(1, Purpose::test, 0);
  double sum = 0;
  for (std::uint64_t i = 0; i < 100'000; ++i) {
    const double value = random.uniform(i);
    ASSERT_GT(value, 0.0);
    ASSERT_LT(value, 1.0);
    sum += value;
  }
  EXPECT_NEAR(sum / 100'000, 0.5, 4 * std::sqrt(1.0 / 12 / 100'000));  // four standard errors
}

TEST(Philox, GivesNormalsWithTheRightMomentsAndNoCorrelationInAPair) {
  const Philox random(2, Purpose::test, 0);
  constexpr int kCount = 200'000;
  double first = 0;
  double second = 0;
  double fourth = 0;
  double pairs = 0;
  for (std::uint64_t i = 0; i < kCount; ++i) {
    const double value = random.normal(i);
    first += value;
    second += value * value;
    fourth += value * value * value * value;
    if (i % 2 == 1) pairs += value * random.normal(i - 1);
  }
  const double error = 4 / std::sqrt(kCount);  // four standard errors of a mean of unit variance
  EXPECT_NEAR(first / kCount, 0.0, error);
  EXPECT_NEAR(second / kCount, 1.0, error * std::sqrt(2.0));
  EXPECT_NEAR(fourth / kCount, 3.0, error * std::sqrt(96.0));
  EXPECT_NEAR(pairs / (kCount / 2.0), 0.0, error * std::sqrt(2.0));
}

TEST(Philox, DiffersByPurposeStepLayerAndSeed) {
  const Words base = Philox(1, Purpose::shuffle, 1, 1).words(0);
  EXPECT_NE(base, Philox(2, Purpose::shuffle, 1, 1).words(0));
  EXPECT_NE(base, Philox(1, Purpose::augmentation, 1, 1).words(0));
  EXPECT_NE(base, Philox(1, Purpose::shuffle, 2, 1).words(0));
  EXPECT_NE(base, Philox(1, Purpose::shuffle, 1, 2).words(0));
  EXPECT_NE(base, Philox(1, Purpose::shuffle, 1, 1).words(1));
}

}  // namespace
}  // namespace vitrail
