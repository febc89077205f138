#include <cmath>
#include <vector>

#include <gtest/gtest.h>

#include "ops/dropout_mask.hpp"

namespace vitrail {
namespace {

constexpr DropoutDraw kDraw{.rate = 0.3, .seed = 20240229, .step = 17, .layer = 5};

DropoutDraw with_rate(double rate) {
  DropoutDraw draw = kDraw;
  draw.rate = rate;
  return draw;
}

TEST(DropoutMask, KeepsTheShareThatIsAskedForAndTheMean) {
  constexpr std::int64_t kCount = 200'000;
  std::vector<double> factors(kCount);
  for (const double rate : {0.1, 0.3, 0.5, 0.9}) {
    DropoutMask(with_rate(rate)).factors(0, kCount, factors.data());
    double kept = 0;
    double pairs = 0;
    for (std::size_t i = 0; i < factors.size(); ++i) {
      const bool one = factors[i] != 0;
      if (one) {
        ASSERT_EQ(factors[i], 1 / (1 - rate));
      }
      kept += one ? 1 : 0;
      pairs += one && factors[i ^ 1] != 0 ? 1 : 0;
    }
    const double error = 4 * std::sqrt(rate * (1 - rate) / kCount);  // four standard errors
    EXPECT_NEAR(kept / kCount, 1 - rate, error);
    EXPECT_NEAR(kept / kCount / (1 - rate), 1.0, error / (1 - rate)) << "the mean of the factors";
    EXPECT_NEAR(pairs / kCount, (1 - rate) * (1 - rate), 2 * error) << "neighbours are independent";
  }
}

TEST(DropoutMask, KeepsWhatHasAUniformNumberNotBelowTheRate) {
  const Philox random(kDraw.seed, Purpose::dropout, kDraw.step, kDraw.layer);
  for (const double rate : {0.0, 1e-300, 0x1p-40, 1e-3, 0.3, 0.5, 0.999, 1 - 0x1p-53}) {
    const DropoutMask mask(with_rate(rate));
    for (std::uint64_t i = 0; i < 3000; ++i) ASSERT_EQ(mask.factor(i) != 0, random.uniform(i) >= rate) << rate;
  }
}

// Rates at, just above and just below a number that is drawn.
TEST(DropoutMask, ComparesToTheLastBit) {
  const Philox random(kDraw.seed, Purpose::dropout, kDraw.step, kDraw.layer);
  for (std::uint64_t i = 0; i < 3000; ++i) {
    const double drawn = random.uniform(i);
    ASSERT_NE(DropoutMask(with_rate(drawn)).factor(i), 0.0) << drawn;
    ASSERT_NE(DropoutMask(with_rate(std::nextafter(drawn, 0.0))).factor(i), 0.0) << drawn;
    ASSERT_EQ(DropoutMask(with_rate(std::nextafter(drawn, 1.0))).factor(i), 0.0) << drawn;
  }
}

TEST(DropoutMask, DrawsTheSameForARunAsOneByOne) {
  const DropoutMask mask(kDraw);
  for (const std::uint64_t begin : {std::uint64_t{0}, std::uint64_t{1} << 34, (std::uint64_t{1} << 63) - 2}) {
    for (std::uint64_t first = begin; first < begin + 5; ++first) {
      for (const std::int64_t count : {0, 1, 2, 3, 4, 5, 7, 33, 257}) {
        std::vector<float> factors(static_cast<std::size_t>(count) + 1, -1.0F);
        mask.factors(first, count, factors.data());
        for (std::int64_t i = 0; i < count; ++i) {
          const auto expected = static_cast<float>(mask.factor(first + static_cast<std::uint64_t>(i)));
          ASSERT_EQ(factors[static_cast<std::size_t>(i)], expected) << first << " + " << i << " of " << count;
        }
        ASSERT_EQ(factors.back(), -1.0F) << "past the end";
      }
    }
  }
}

TEST(DropoutMask, RunStrideAndShareSayWhichIndexAnElementHas) {
  DropoutDraw draw = kDraw;
  draw.first = 100;
  const auto indices = [&](std::int64_t count) {
    std::vector<std::uint64_t> all;
    for (std::int64_t i = 0; i < count; ++i) all.push_back(DropoutMask(draw).index_of(i));
    return all;
  };
  EXPECT_EQ(indices(4), (std::vector<std::uint64_t>{100, 101, 102, 103})) << "as they stand, all follow each other";
  draw.run = 3;
  draw.stride = 10;
  EXPECT_EQ(indices(8), (std::vector<std::uint64_t>{100, 101, 102, 110, 111, 112, 120, 121}));
  draw.share = 2;
  EXPECT_EQ(indices(9), (std::vector<std::uint64_t>{100, 100, 101, 101, 102, 102, 110, 110, 111}));
  draw.run = draw.stride = 1;
  EXPECT_EQ(indices(5), (std::vector<std::uint64_t>{100, 100, 101, 101, 102}));
}

TEST(DropoutMask, DiffersBySeedStepAndLayer) {
  const auto bits = [](const DropoutDraw& draw) {
    std::vector<float> factors(64);
    DropoutMask(draw).factors(0, 64, factors.data());
    return factors;
  };
  DropoutDraw seed = kDraw, step = kDraw, layer = kDraw;
  ++seed.seed, ++step.step, ++layer.layer;
  EXPECT_EQ(bits(kDraw), bits(kDraw));
  for (const DropoutDraw& other : {seed, step, layer}) EXPECT_NE(bits(kDraw), bits(other));
}

}  // namespace
}  // namespace vitrail
