#include <numeric>
#include <vector>

#include <gtest/gtest.h>

#include "data/augment.hpp"

namespace vitrail {
namespace {

// A 2 x 3 image of one channel: 1 2 3 / 4 5 6.
std::vector<int> augmented(const AugmentationDraw& draw) {
  const std::vector<std::uint8_t> from{1, 2, 3, 4, 5, 6};
  std::vector<std::uint8_t> to(6, 99);
  augment(draw, {2, 3, 1}, from.data(), to.data());
  return {to.begin(), to.end()};
}

TEST(Augment, ShiftsAndPutsZerosWhereNothingComesFrom) {
  EXPECT_EQ(augmented({}), (std::vector<int>{1, 2, 3, 4, 5, 6}));
  EXPECT_EQ(augmented({.down = 1}), (std::vector<int>{0, 0, 0, 1, 2, 3}));
  EXPECT_EQ(augmented({.down = -1, .right = 0}), (std::vector<int>{4, 5, 6, 0, 0, 0}));
  EXPECT_EQ(augmented({.down = 0, .right = 1}), (std::vector<int>{0, 1, 2, 0, 4, 5}));
  EXPECT_EQ(augmented({.down = 0, .right = -2}), (std::vector<int>{3, 0, 0, 6, 0, 0}));
  EXPECT_EQ(augmented({.down = 5, .right = 5}), (std::vector<int>{0, 0, 0, 0, 0, 0}));
}

TEST(Augment, FlipsBeforeItShifts) {
  EXPECT_EQ(augmented({.down = 0, .right = 0, .flip = true}), (std::vector<int>{3, 2, 1, 6, 5, 4}));
  EXPECT_EQ(augmented({.down = 0, .right = 1, .flip = true}), (std::vector<int>{0, 3, 2, 0, 6, 5}));
}

TEST(Augment, MovesAllChannelsOfAPixelTogether) {
  const std::vector<std::uint8_t> from{1, 2, 3, 4, 5, 6};  // 1 x 2 pixels of 3 channels
  std::vector<std::uint8_t> to(6);
  augment({.down = 0, .right = 0, .flip = true}, {1, 2, 3}, from.data(), to.data());
  EXPECT_EQ(to, (std::vector<std::uint8_t>{4, 5, 6, 1, 2, 3}));
}

TEST(Augment, DrawsEveryShiftAndFlipEquallyOften) {
  constexpr int kImages = 14'000;
  std::vector<int> down(7);
  std::vector<int> right(7);
  int flips = 0;
  for (int i = 0; i < kImages; ++i) {
    const AugmentationDraw draw = draw_augmentation({.shift = 3, .flip = true}, 1, 2, i);
    ++down.at(static_cast<std::size_t>(draw.down + 3));
    ++right.at(static_cast<std::size_t>(draw.right + 3));
    flips += draw.flip ? 1 : 0;
  }
  for (int i = 0; i < 7; ++i) {
    EXPECT_NEAR(down[static_cast<std::size_t>(i)], 2000, 5 * 42);  // five standard deviations
    EXPECT_NEAR(right[static_cast<std::size_t>(i)], 2000, 5 * 42);
  }
  EXPECT_NEAR(flips, kImages / 2, 5 * 60);
}

TEST(Augment, DrawsByEpochAndSampleAndDoesNothingWhenOff) {
  const auto key = [](std::uint64_t seed, std::int64_t epoch, std::int64_t sample) {
    const AugmentationDraw draw = draw_augmentation({.shift = 1'000'000, .flip = true}, seed, epoch, sample);
    return std::vector<std::int64_t>{draw.down, draw.right};
  };
  EXPECT_EQ(key(1, 2, 3), key(1, 2, 3));
  EXPECT_NE(key(1, 2, 3), key(2, 2, 3));
  EXPECT_NE(key(1, 2, 3), key(1, 3, 3));
  EXPECT_NE(key(1, 2, 3), key(1, 2, 4));
  const AugmentationDraw off = draw_augmentation({}, 1, 2, 3);
  EXPECT_EQ(off.down, 0);
  EXPECT_EQ(off.right, 0);
  EXPECT_FALSE(off.flip);
}

}  // namespace
}  // namespace vitrail
