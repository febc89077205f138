// Which axes Adafactor factors. [V-MoE]

#include <gtest/gtest.h>

#include "train/factoring.hpp"

namespace vitrail {
namespace {

std::pair<int, int> axes(const Shape& shape, std::int64_t factored_above) {
  const Factoring factoring = factoring_of(shape, factored_above);
  return {factoring.x, factoring.y};
}

TEST(Factoring, TakesTheTwoLargestAxes) {
  EXPECT_EQ(axes({32, 34}, 32), (std::pair{0, 1}));
  EXPECT_EQ(axes({768, 12, 64}, 32), (std::pair{0, 2}));
  EXPECT_EQ(axes({12, 64, 768}, 32), (std::pair{1, 2}));
  EXPECT_EQ(axes({64, 32, 16}, 32), (std::pair{0, 1}));
}

TEST(Factoring, OfEqualAxesTheLaterCountsAsLarger) {
  EXPECT_EQ(axes({32, 32, 3, 768}, 32), (std::pair{1, 3}));
  EXPECT_EQ(axes({8, 6, 6}, 4), (std::pair{0, 2}));
  EXPECT_EQ(axes({5, 5, 5}, 4), (std::pair{1, 2}));
}

TEST(Factoring, LeavesAloneWhatHasNoTwoLongAxes) {
  EXPECT_EQ(axes({4096}, 2), (std::pair{-1, -1}));
  EXPECT_EQ(axes({1, 197, 768}, 198), (std::pair{-1, -1}));
  EXPECT_EQ(axes({1, 197, 768}, 197), (std::pair{1, 2}));
  EXPECT_EQ(axes({}, 1), (std::pair{-1, -1}));
}

std::vector<ParameterSpec> table() {
  return {{"query", {6, 2, 5}}, {"experts", {4, 6, 8}, true}, {"expert_bias", {4, 8}, true}, {"bias", {7}}};
}

TEST(AdafactorPieces, AreTensorsAndSingleExperts) {
  EXPECT_EQ(adafactor_pieces(table(), 5, false), (std::vector<std::int64_t>{60, 48, 8, 7}));
}

TEST(AdafactorPieces, AreWholeTensorsWhereTheExpertAxisIsFactored) {
  EXPECT_EQ(adafactor_pieces(table(), 4, true), (std::vector<std::int64_t>{60, 48, 32, 7}));
  try {
    (void)adafactor_pieces(table(), 4, false);
    FAIL() << "statistics over experts of several ranks";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::usage);
    EXPECT_NE(std::string(error.what()).find("--factored-above must be above E, 4"), std::string::npos) << error.what();
  }
}

TEST(AdafactorUnits, AreWholeMatricesWithTheirPlacesInLogicalStatistics) {
  const auto pieces = adafactor_pieces(table(), 5, false);
  const FlatLayout experts(table(), 2, 2, 1, pieces);
  const AdafactorUnits units(table(), 5, pieces, experts, 0);
  EXPECT_EQ(units.begin, (std::vector<std::int64_t>{0, 48, 96, 104}));
  EXPECT_EQ(units.factors, (std::vector<std::int64_t>{1, 6, 1, 8, 1,  //
                                                      1, 6, 1, 8, 1,  //
                                                      8, 0, 0, 0, 0,  //
                                                      8, 0, 0, 0, 0}));
  EXPECT_EQ(units.statistics_begin, (std::vector<std::int64_t>{0, 14, 28, 36}));
  EXPECT_EQ(units.statistics, 44);
  const auto& second = units.entries[1];
  ASSERT_EQ(second.size(), 2U);
  EXPECT_EQ(second[0].shape, (Shape{4, 8}));
  EXPECT_EQ(second[0].first, 3 * 8);
  EXPECT_EQ(second[0].begin, 14);
  EXPECT_EQ(second[1].shape, (Shape{4, 6}));
  EXPECT_EQ(second[1].first, 3 * 6);
  EXPECT_EQ(second[1].begin, 22);
  EXPECT_EQ(units.entries[3][0].first, 24);
}

TEST(AdafactorUnits, KeepHeadsApart) {
  const auto pieces = adafactor_pieces(table(), 5, false);
  const AdafactorUnits units(table(), 5, pieces, FlatLayout(table(), 0, 0, 1, pieces), 0);
  EXPECT_EQ(units.factors, (std::vector<std::int64_t>{1, 6, 2, 5, 1, 7, 0, 0, 0, 0}));
  EXPECT_EQ(units.entries[0][0].shape, (Shape{2, 5}));
  EXPECT_EQ(units.entries[0][1].shape, (Shape{6, 2}));
}

TEST(AdafactorUnits, RefuseALayoutThatCutsThem) {
  const std::vector<ParameterSpec> large = {{"large", {300, 300}}};
  const auto pieces = adafactor_pieces(large, 5, true);
  EXPECT_THROW(AdafactorUnits(large, 5, pieces, FlatLayout(large, 0, 0, 2), 0), Error);
  EXPECT_NO_THROW(AdafactorUnits(large, 5, pieces, FlatLayout(large, 0, 0, 2, pieces), 0));
}

}  // namespace
}  // namespace vitrail
