#include <cmath>
#include <limits>
#include <vector>

#include <gtest/gtest.h>

#include "apps/checkpoint_diff.hpp"

namespace vitrail {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

template <class T>
ConstTensor view(const std::vector<T>& values) {
  return {values.data(), {std::ssize(values)}, dtype_of<T>};
}

template <class A, class B = A>
TensorDifference difference(const std::vector<A>& a, const std::vector<B>& b) {
  TensorDifference result;
  result.add(view(a), view(b));
  return result;
}

TEST(TensorDifference, OfEqualBitsIsNothing) {
  const std::vector<float> values{1, -2, kInfinity, kNaN, 0};
  const TensorDifference found = difference(values, values);
  EXPECT_EQ(found.elements(), 5);
  EXPECT_EQ(found.differing(), 0);
  EXPECT_EQ(found.first(), -1);
  EXPECT_EQ(found.max_abs(), 0);
  EXPECT_EQ(found.relative(), 0);
}

TEST(TensorDifference, IsRelativeToTheLargestOfTheFirst) {
  const TensorDifference found = difference<float>({1, -8, 2}, {1, -7, 2.5});
  EXPECT_EQ(found.differing(), 2);
  EXPECT_EQ(found.max_abs(), 1);
  EXPECT_EQ(found.relative(), 0.125);
  EXPECT_EQ(found.first(), 1);
}

TEST(TensorDifference, GathersStretches) {
  TensorDifference found;
  found.add(view(std::vector<float>{-16, 1}), view(std::vector<float>{-16, 1}));
  found.add(view(std::vector<float>{3, 2}), view(std::vector<float>{3, 4}));
  EXPECT_EQ(found.elements(), 4);
  EXPECT_EQ(found.first(), 3);
  EXPECT_EQ(found.relative(), 0.125);  // the largest stands in the stretch that is equal
}

TEST(TensorDifference, SeesTheSignOfZeroInBitsAlone) {
  const TensorDifference found = difference<float>({0.0F, 1}, {-0.0F, 1});
  EXPECT_EQ(found.differing(), 1);
  EXPECT_EQ(found.max_abs(), 0);
}

TEST(TensorDifference, IsInfiniteWhereOnlyOneIsFinite) {
  EXPECT_TRUE(std::isinf(difference<float>({1, 2}, {1, kNaN}).max_abs()));
  EXPECT_TRUE(std::isinf(difference<float>({1, kInfinity}, {1, 2}).relative()));
  EXPECT_TRUE(std::isinf(difference<float>({kInfinity}, {-kInfinity}).max_abs()));
}

TEST(TensorDifference, OfSomethingToZerosIsRelativelyInfinite) {
  EXPECT_TRUE(std::isinf(difference<float>({0, 0}, {0, 1e-30F}).relative()));
}

TEST(TensorDifference, OfTwoDtypesComparesValues) {
  EXPECT_EQ((difference<float, double>({1, 0.5, kNaN}, {1, 0.5, std::nan("")}).differing()), 0);
  const TensorDifference found = difference<float, double>({1, 2}, {1, 2.5});
  EXPECT_EQ(found.differing(), 1);
  EXPECT_EQ(found.max_abs(), 0.5);
}

TEST(TensorDifference, ComparesIntegersBeyondTheReachOfDoublesByTheirBits) {
  const std::int64_t large = (std::int64_t{1} << 60) + 1;
  EXPECT_EQ(difference<std::int64_t>({large}, {large - 1}).differing(), 1);
}

}  // namespace
}  // namespace vitrail
