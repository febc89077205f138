#include <array>

#include <gtest/gtest.h>

#include "device/tensor.hpp"

namespace vitrail {
namespace {

TEST(Shape, CountsElementsAndShowsItself) {
  EXPECT_EQ(Shape({2, 3, 4}).elements(), 24);
  EXPECT_EQ(Shape({}).elements(), 1);
  EXPECT_EQ(Shape({5, 0}).elements(), 0);
  EXPECT_EQ(Shape({2, 3}).str(), "[2, 3]");
  EXPECT_FALSE(Shape({2, 3}) == Shape({3, 2}));
  EXPECT_FALSE(Shape({2, 3}) == Shape({2, 3, 1}));
  EXPECT_THROW(Shape({1, 1, 1, 1, 1, 1, 1}), Error);
}

TEST(Tensor, SlicesRowsOfTheFirstAxis) {
  std::array<float, 12> memory{};
  const Tensor tensor(memory.data(), {4, 3}, Dtype::f32);
  const Tensor rows = tensor.slice(1, 2);
  EXPECT_EQ(rows.data, &memory[3]);
  EXPECT_EQ(rows.shape, Shape({2, 3}));
  EXPECT_EQ(tensor.slice(4, 0).elements(), 0);
  EXPECT_THROW((void)tensor.slice(3, 2), Error);
  EXPECT_THROW((void)tensor.slice(-1, 1), Error);
}

TEST(Tensor, IsSeenUnderShapesOfItsSizeOnly) {
  std::array<float, 12> memory{};
  const Tensor tensor(memory.data(), {4, 3}, Dtype::f32);
  EXPECT_EQ(tensor.view({2, 6}).shape, Shape({2, 6}));
  EXPECT_THROW((void)tensor.view({5, 3}), Error);
}

TEST(Tensor, IsTakenForItsOwnDtypeOnly) {
  std::array<float, 2> memory{};
  const Tensor tensor(memory.data(), {2}, Dtype::f32);
  EXPECT_EQ(tensor.as<float>(), memory.data());
  EXPECT_THROW((void)tensor.as<double>(), Error);
  EXPECT_EQ(tensor.bytes(), 8);
}

TEST(Tensor, IsFalseWhenLeftOut) {
  EXPECT_FALSE(Tensor());
  EXPECT_FALSE(ConstTensor());
  float x = 0;
  EXPECT_TRUE(ConstTensor(&x, {1}, Dtype::f32));
}

}  // namespace
}  // namespace vitrail
