#include <gtest/gtest.h>

#include "convert/flax_plan.hpp"
#include "tests/errors.hpp"

namespace vitrail {
namespace {

std::vector<std::string> cut(const Region& region, std::int64_t limit) {
  std::vector<std::string> parts;
  for (const Region& part : cut_region(region, limit)) parts.push_back(str(part));
  return parts;
}

using Strings = std::vector<std::string>;

TEST(CutRegion, LeavesWhatIsSmallEnough) {
  EXPECT_EQ(cut({{0, 5}}, 5), Strings{"[0:5]"});
  EXPECT_EQ(cut({}, 1), Strings{"[]"});
}

TEST(CutRegion, CutsAPrimeAxisIntoSingles) {
  // [V-MoE tests]: [0,5) with at most 3 items.
  EXPECT_EQ(cut({{0, 5}}, 3), (Strings{"[0:1]", "[1:2]", "[2:3]", "[3:4]", "[4:5]"}));
}

TEST(CutRegion, BeginsWithTheShortestAxis) {
  // [V-MoE tests]: (0:2, 4:8) with at most 4.
  EXPECT_EQ(cut({{0, 2}, {4, 8}}, 4), (Strings{"[0:1, 4:8]", "[1:2, 4:8]"}));
  EXPECT_EQ(cut({{4, 8}, {0, 2}}, 4), (Strings{"[4:8, 0:1]", "[4:8, 1:2]"}));
  EXPECT_EQ(cut({{0, 4}, {0, 4}}, 8), (Strings{"[0:2, 0:4]", "[2:4, 0:4]"}));
}

TEST(CutRegion, TakesTheFewestPartsThatAreEnough) {
  EXPECT_EQ(cut({{0, 12}}, 4).size(), 3U);
  EXPECT_EQ(cut({{0, 12}}, 3).size(), 4U);
  EXPECT_EQ(cut({{0, 12}}, 1).size(), 12U);  // no divisor up to 9 is enough
  // The first axis is not enough, even in singles: the next one goes on.
  EXPECT_EQ(cut({{0, 2}, {0, 9}}, 3).size(), 6U);
}

TEST(CutRegion, SkipsAxesOfLengthOne) { EXPECT_EQ(cut({{3, 4}, {0, 4}}, 2), (Strings{"[3:4, 0:2]", "[3:4, 2:4]"})); }

TEST(LightestShard, IsTheOneWithTheFewestBytesAndOfEqualsTheFirst) {
  // [V-MoE tests]: slices of 10 and 5 elements of 2 bytes, onto files with 1 and 4.
  std::vector<std::int64_t> bytes{1, 4};
  EXPECT_EQ(lightest_shard(bytes), 0);
  bytes[0] += 20;
  EXPECT_EQ(lightest_shard(bytes), 1);
  bytes[1] += 10;
  EXPECT_EQ(bytes, (std::vector<std::int64_t>{21, 14}));
  EXPECT_EQ(lightest_shard({3, 3, 4}), 0);
}

TEST(FlaxPlan, NumbersTensorsByTheirKeys) {
  const std::vector<TensorInfo> tensors{{"y", {}, Dtype::f32},
                                        {"block_2/a", {3}, Dtype::f32},
                                        {"block_10/a", {3}, Dtype::f32},
                                        {"block/z", {3}, Dtype::f32},
                                        {"block-1", {3}, Dtype::f32}};
  const FlaxPlan plan = plan_flax(tensors, {});
  std::vector<std::string> names;
  for (const FlaxLeaf& leaf : plan.index.leaves) names.push_back(leaf.name);
  EXPECT_EQ(names, (Strings{"block/z", "block-1", "block_10/a", "block_2/a", "y"}));
  EXPECT_EQ(plan.place, (std::vector<std::size_t>{3, 4, 2, 1, 0}));
}

TEST(FlaxPlan, HasNoEmptyDataFiles) {
  const FlaxPlan plan = plan_flax({{"a", {3}, Dtype::f32}, {"b", {}, Dtype::i32}}, {.shards = 7});
  EXPECT_EQ(plan.index.shards, 2);
  EXPECT_EQ(plan.index.leaves[0].shards, (std::vector<std::int64_t>{0}));
  EXPECT_EQ(plan.index.leaves[1].shards, (std::vector<std::int64_t>{1}));
}

TEST(FlaxPlan, BeginsWithTheSlicesOfDevices) {
  FlaxCut halves{.slice_bytes = 40};
  halves.devices = [](const TensorInfo&) { return 2; };
  const FlaxPlan plan = plan_flax({{"a", {4, 10}, Dtype::bf16}}, halves);
  EXPECT_EQ(plan.index.leaves[0].slices, (std::vector<Region>{{{0, 2}, {0, 10}}, {{2, 4}, {0, 10}}}));
  const Error error = testing::error_of([&] { plan_flax({{"a", {3, 10}, Dtype::bf16}}, halves); });
  EXPECT_EQ(error.code(), ExitCode::checkpoint);
}

TEST(FlaxPlan, RefusesWhatNumpyAndVitrailDoNotShare) {
  const Error error = testing::error_of([] { plan_flax({{"a", {3}, Dtype::c128}}, {}); });
  EXPECT_EQ(error.code(), ExitCode::checkpoint);
}

TEST(FlaxLayout, KnowsTheNumberOfDataFilesWithoutTensorsToo) {
  const FlaxPlan plan = plan_flax({}, {.shards = 2});
  EXPECT_EQ(plan.index.shards, 0);
  EXPECT_TRUE(lay_out_flax(plan.index, 100).files.empty());
}

TEST(FlaxLayout, CutsSlicesIntoPieces) {
  const FlaxPlan plan = plan_flax({{"a", {10}, Dtype::f64}, {"b", {0}, Dtype::f64}}, {});
  const FlaxLayout layout = lay_out_flax(plan.index, 33);
  const auto& pieces = layout.pieces[0][0];
  ASSERT_EQ(pieces.size(), 3U);
  EXPECT_EQ(pieces[0].elements, 4);
  EXPECT_EQ(pieces[1].elements, 4);
  EXPECT_EQ(pieces[2].elements, 2);
  EXPECT_EQ(layout.pieces[1][0].size(), 1U);  // an empty one
  // Headers fill all that elements leave free.
  std::int64_t end = 0;
  std::size_t piece = 0;
  for (const FlaxDataLayout::Header& header : layout.files.at(0).headers) {
    EXPECT_EQ(header.offset, end);
    end += std::ssize(header.bytes);
    if (piece < pieces.size()) {
      EXPECT_EQ(pieces[piece].offset, end);
      end += 8 * pieces[piece++].elements;
    }
  }
}

}  // namespace
}  // namespace vitrail
