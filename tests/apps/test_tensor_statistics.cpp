#include <cmath>
#include <limits>
#include <vector>

#include <gtest/gtest.h>

#include "apps/tensor_statistics.hpp"

namespace vitrail {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

TEST(TensorStatistics, AreThoseOfAllStretchesTogether) {
  TensorStatistics statistics;
  statistics.add(std::vector<double>{-3, 1});
  statistics.add(std::vector<double>{});
  statistics.add(std::vector<double>{-1, 5});
  EXPECT_EQ(statistics.elements(), 4);
  EXPECT_EQ(statistics.norm(), 6);  // 9 + 1 + 1 + 25
  EXPECT_EQ(statistics.mean(), 0.5);
  EXPECT_EQ(statistics.min(), -3);
  EXPECT_EQ(statistics.max(), 5);
}

TEST(TensorStatistics, CountWhatIsNotFiniteAndLeaveItOut) {
  TensorStatistics statistics;
  statistics.add(std::vector<double>{kNaN, -4, kInfinity, -2, -kInfinity});
  EXPECT_EQ(statistics.non_finite(), 3);
  EXPECT_EQ(statistics.elements(), 5);
  EXPECT_EQ(statistics.min(), -4);
  EXPECT_EQ(statistics.max(), -2);
  EXPECT_EQ(statistics.mean(), -3);
}

TEST(TensorStatistics, OfNothingAreNaN) {
  TensorStatistics statistics;
  statistics.add(std::vector<double>{kNaN});
  EXPECT_TRUE(std::isnan(statistics.norm()));
  EXPECT_TRUE(std::isnan(statistics.mean()));
  EXPECT_TRUE(std::isnan(statistics.min()));
  EXPECT_TRUE(std::isnan(statistics.max()));
}

}  // namespace
}  // namespace vitrail
