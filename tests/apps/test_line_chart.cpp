#include <cmath>
#include <limits>

#include <gtest/gtest.h>

#include "apps/line_chart.hpp"

namespace vitrail {
namespace {

using Numbers = std::vector<double>;

void expect_near(const Numbers& found, const Numbers& wanted) {
  ASSERT_EQ(found.size(), wanted.size());
  for (std::size_t i = 0; i < wanted.size(); ++i) EXPECT_NEAR(found[i], wanted[i], 1e-12 * (1 + std::abs(wanted[i])));
}

std::size_t count_of(const std::string& words, const std::string& part) {
  std::size_t count = 0;
  for (auto at = words.find(part); at != std::string::npos; at = words.find(part, at + 1)) ++count;
  return count;
}

TEST(Ticks, AreRoundNumbersInsideTheRange) {
  expect_near(linear_ticks(0, 10, 5), {0, 2, 4, 6, 8, 10});
  expect_near(linear_ticks(-0.13, 0.31, 4), {0, 0.2});
  expect_near(linear_ticks(86.54, 100, 8), {88, 90, 92, 94, 96, 98, 100});
  expect_near(linear_ticks(0.1, 0.3, 2), {0.1, 0.2, 0.3});
  expect_near(linear_ticks(7, 7, 5), {7});
}

TEST(Ticks, OfALogarithmicAxisAreOnesTwosAndFives) {
  expect_near(logarithmic_ticks(0.045, 2.1), {0.05, 0.1, 0.2, 0.5, 1, 2});
  expect_near(logarithmic_ticks(1, 1e5), {1, 10, 100, 1000, 1e4, 1e5});
  expect_near(logarithmic_ticks(3, 4), {});
}

TEST(LineChart, PutsPointsWhereTheirValuesAre) {
  // 0 and 10 are ticks at the ends of both axes, so the point in the middle stands in the middle.
  const std::string svg = to_svg({.title = "t",
                                  .x_label = "x",
                                  .y_label = "y",
                                  .log_x = false,
                                  .lines = {{.label = "a", .points = {{0, 0}, {5, 5}, {10, 10}}}}});
  EXPECT_EQ(count_of(svg, "class=\"point\""), 3U);
  EXPECT_NE(svg.find("M76.00 412.00L356.00 232.00L636.00 52.00"), std::string::npos) << svg;
  EXPECT_NE(svg.find("data-x=\"5\" data-y=\"5\"><title>a: 5, 5</title>"), std::string::npos) << svg;
}

TEST(LineChart, OnALogarithmicAxisEqualRatiosAreEqualDistances) {
  const std::string svg = to_svg({.title = "",
                                  .x_label = "",
                                  .y_label = "",
                                  .log_x = true,
                                  .lines = {{.label = "a", .points = {{0.1, 1}, {1, 1}, {10, 1}}}}});
  // 4 % of room at both sides: 560 pixels are 1.08 times the way from 0.1 to 10.
  EXPECT_NE(svg.find("M96.74 232.00L356.00 232.00L615.26 232.00"), std::string::npos) << svg;
}

TEST(LineChart, EscapesTexts) {
  const std::string svg = to_svg({.title = "a < b & \"c\"",
                                  .x_label = "x\x01>",
                                  .y_label = "",
                                  .log_x = false,
                                  .lines = {{.label = "<script>", .points = {{1, 2}}}}});
  EXPECT_NE(svg.find("a &lt; b &amp; &quot;c&quot;"), std::string::npos);
  EXPECT_NE(svg.find(">x &gt;<"), std::string::npos);
  EXPECT_EQ(svg.find("<script>"), std::string::npos);
}

TEST(LineChart, LeavesOutWhatIsNoPoint) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  LineChart chart{
      .title = "",
      .x_label = "",
      .y_label = "",
      .log_x = true,
      .lines = {{.label = "a", .points = {{0, 1}, {1, nan}, {1, 3}, {2, 4}}}, {.label = "b", .points = {}}}};
  const std::string svg = to_svg(chart);
  EXPECT_EQ(count_of(svg, "class=\"point\""), 2U);
  EXPECT_EQ(count_of(svg, "class=\"legend\""), 2U);
  EXPECT_EQ(svg.find("nan"), std::string::npos);
  chart.lines.clear();
  EXPECT_NE(to_svg(chart).find("</svg>"), std::string::npos);
}

TEST(LineChart, TellsLinesApartByColourAndStroke) {
  const std::string svg = to_svg({.title = "",
                                  .x_label = "",
                                  .y_label = "",
                                  .log_x = false,
                                  .lines = {{.label = "a", .points = {{1, 2}}},
                                            {.label = "b", .points = {{1, 3}}, .colour = 1},
                                            {.label = "c", .points = {{1, 3}}, .colour = 0, .stroke = 1}}});
  EXPECT_EQ(count_of(svg, "<g stroke=\"#0072b2\""), 4U);  // two lines, and each in the legend
  EXPECT_EQ(count_of(svg, "<g stroke=\"#d55e00\""), 2U);
  EXPECT_EQ(count_of(svg, "stroke-dasharray"), 2U);
}

}  // namespace
}  // namespace vitrail
