#include <gtest/gtest.h>

#include "model/position_resize.hpp"

namespace vitrail {
namespace {

using Values = std::vector<double>;

Values numbers(std::int64_t count, double first = 0) {
  Values values;
  for (std::int64_t i = 0; i < count; ++i) values.push_back(first + static_cast<double>(i));
  return values;
}

void expect_near(const Values& computed, const Values& wanted) {
  ASSERT_EQ(computed.size(), wanted.size());
  for (std::size_t i = 0; i < wanted.size(); ++i) EXPECT_NEAR(computed[i], wanted[i], 1e-14) << i;
}

std::string refusal_of(std::int64_t source_tokens, std::int64_t target_tokens) {
  try {
    (void)vit_zoom(Values(static_cast<std::size_t>(source_tokens)), source_tokens,
                   Values(static_cast<std::size_t>(target_tokens)), target_tokens);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::usage);
    return error.what();
  }
  return "";
}

TEST(Zoom, CornersStayAndTheRestLiesBetween) {
  expect_near(zoom(Values{0, 1, 4}, {3}, {5}), {0, 0.5, 1, 2.5, 4});
  expect_near(zoom(Values{0, 1, 2, 5}, {2, 2}, {3, 3}), {0, 0.5, 1, 1, 2, 3, 2, 3.5, 5});
}

TEST(Zoom, ShrinkingTakesSamplesAndSmoothsNothing) {
  expect_near(zoom(Values{3, 100, 5, -100, 7, 100, 9}, {7}, {4}), {3, 5, 7, 9});
  expect_near(zoom(Values{3, 100}, {2}, {1}), {3});
}

TEST(Zoom, OneElementFillsTheAxis) { expect_near(zoom(Values{7, 8}, {1, 2}, {3, 2}), {7, 8, 7, 8, 7, 8}); }

TEST(Zoom, AxesOfTheSameLengthKeepTheirBits) {
  const Values values = {0.1, 0.7, 1e-300, -3, 1e300, 5};
  EXPECT_EQ(zoom(values, {2, 3}, {2, 3}), values);
}

TEST(Zoom, TheLastElementIsReachedForEveryPairOfLengths) {
  for (std::int64_t from = 1; from <= 40; ++from) {
    for (std::int64_t to = 2; to <= 40; ++to) {
      const Values zoomed = zoom(numbers(from, 1), {from}, {to});
      EXPECT_NEAR(zoomed.back(), static_cast<double>(from), 1e-12) << from << " to " << to;
    }
  }
}

TEST(Zoom, FloatsAreRoundedOnce) {
  const std::vector<float> zoomed = zoom(std::vector<float>{0.1F, 0.3F}, {2}, {4});
  const Values exact = zoom(Values{static_cast<double>(0.1F), static_cast<double>(0.3F)}, {2}, {4});
  for (std::size_t i = 0; i < exact.size(); ++i) EXPECT_EQ(zoomed[i], static_cast<float>(exact[i]));
}

TEST(Zoom, RefusesOtherNumbersOfAxesAndEmptyOnes) {
  EXPECT_THROW((void)zoom(Values{1, 2}, {2}, {2, 1}), Error);
  EXPECT_THROW((void)zoom(Values{1, 2}, {2}, {0}), Error);
  EXPECT_THROW((void)zoom(Values{1, 2}, {3}, {2}), Error);
}

// [V-MoE tests]
TEST(VitZoom, OnesStayOnes) {
  EXPECT_EQ(vit_zoom(Values(64 * 3, 1), 64, Values(16 * 3, 0), 16), Values(16 * 3, 1));
  EXPECT_EQ(vit_zoom(Values(65 * 3, 1), 65, Values(17 * 3, 0), 17), Values(17 * 3, 1));
}

TEST(VitZoom, TheGridIsZoomedBehindTheRowOfTheClassToken) {
  expect_near(vit_zoom(Values{9, 0, 1, 2, 3}, 5, Values(10, -1), 10), {9, 0, 0.5, 1, 1, 1.5, 2, 2, 2.5, 3});
}

TEST(VitZoom, TheClassTokensRowComesFromTheSourceElseFromTheTargetElseGoes) {
  const Values grid = {0, 1, 2, 3};
  const Values with_token = {9, 0, 1, 2, 3};
  EXPECT_EQ(vit_zoom(with_token, 5, Values(5, 7), 5), with_token);
  EXPECT_EQ(vit_zoom(grid, 4, Values{7, 6, 6, 6, 6}, 5), (Values{7, 0, 1, 2, 3}));
  EXPECT_EQ(vit_zoom(with_token, 5, Values(4, 7), 4), grid);
}

TEST(VitZoom, GridsThatAreNotSquareAreRefusedByName) {
  EXPECT_NE(refusal_of(7, 10).find("the 7 position embeddings of the source"), std::string::npos);
  EXPECT_NE(refusal_of(10, 13).find("the 13 position embeddings of the target"), std::string::npos);
  EXPECT_EQ(refusal_of(1, 2), "");
}

}  // namespace
}  // namespace vitrail
