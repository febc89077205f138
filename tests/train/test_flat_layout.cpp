// Flat arrays of parameters, their blocks and their owners.

#include <gtest/gtest.h>

#include "device/arena.hpp"
#include "train/flat_layout.hpp"

namespace vitrail {
namespace {

std::vector<ParameterSpec> table() {
  std::vector<ParameterSpec> specs(4);
  specs[0].name = "a";
  specs[0].shape = {3, 7};
  specs[1].name = "experts";
  specs[1].shape = {4, 100, 200};  // 20,000 per expert: two blocks
  specs[1].expert = true;
  specs[2].name = "large";
  specs[2].shape = {300, 300};
  specs[3].name = "expert_bias";
  specs[3].shape = {4, 5};
  specs[3].expert = true;
  return specs;
}

TEST(FlatLayout, HoldsTheDenseTensorsOrTheExpertsOfItsOwn) {
  const FlatLayout dense(table(), 0, 0, 1);
  EXPECT_EQ(dense.elements(), 32 + 90000);  // 21 elements are padded to 32
  EXPECT_EQ(dense.blocks().size(), 1U + 6U);
  const FlatLayout experts(table(), 2, 2, 1);
  EXPECT_EQ(experts.elements(), 40000 + 16);
  EXPECT_EQ(experts.blocks().size(), 4U + 2U);
}

TEST(FlatLayout, CutsATensorIntoTheSameBlocksOnEveryLayout) {
  const FlatLayout whole(table(), 0, 4, 1);
  const FlatLayout half(table(), 2, 2, 3);
  std::vector<FlatBlock> later;
  for (const FlatBlock& block : whole.blocks()) {
    if (block.first >= table()[block.tensor].shape.elements() / 2) later.push_back(block);
  }
  ASSERT_EQ(half.blocks().size(), later.size());
  for (std::size_t i = 0; i < later.size(); ++i) {
    EXPECT_EQ(half.blocks()[i].tensor, later[i].tensor);
    EXPECT_EQ(half.blocks()[i].first, later[i].first);
    EXPECT_EQ(half.blocks()[i].count, later[i].count);
    EXPECT_LE(later[i].count, kBlockElements);
  }
}

TEST(FlatLayout, GivesEveryBlockToOneOwnerInOrder) {
  for (const std::int64_t owners : {1, 2, 3, 4, 7, 20}) {
    const FlatLayout layout(table(), 0, 0, owners);
    std::int64_t next_block = 0;
    std::int64_t next_element = 0;
    for (std::int64_t owner = 0; owner < owners; ++owner) {
      const FlatSlice& slice = layout.slice(owner);
      EXPECT_EQ(slice.first_block, next_block);
      EXPECT_EQ(slice.begin, next_element);
      EXPECT_LE(slice.count, layout.largest_slice());
      EXPECT_LE(slice.blocks, layout.most_blocks());
      next_block += slice.blocks;
      next_element += slice.count;
    }
    EXPECT_EQ(next_block, std::ssize(layout.blocks()));
    EXPECT_EQ(next_element, layout.elements());
    // Nobody has more than a fair share and the block that straddles its end.
    EXPECT_LE(layout.largest_slice(), layout.elements() / owners + kBlockElements + 16) << owners;
  }
}

TEST(FlatLayout, KeepsPiecesTogetherAndLetsOwnersGoEmpty) {
  const std::vector<std::int64_t> pieces = {21, 20000, 90000, 5};
  for (const std::int64_t owners : {1, 2, 3, 7}) {
    const FlatLayout layout(table(), 0, 4, owners, pieces);
    std::int64_t next = 0;
    for (std::int64_t owner = 0; owner < owners; ++owner) {
      const FlatSlice& slice = layout.slice(owner);
      EXPECT_EQ(slice.begin, next);
      next += slice.count;
      if (slice.blocks == 0) continue;
      const FlatBlock& first = layout.blocks()[static_cast<std::size_t>(slice.first_block)];
      EXPECT_EQ(first.first % pieces[first.tensor], 0) << owners;
    }
    EXPECT_EQ(next, layout.elements());
    if (owners == 7) {
      EXPECT_EQ(layout.slice(2).count, 0) << "the second expert reaches beyond its share";
    }
  }
  const FlatLayout dense(table(), 0, 0, 4, pieces);
  EXPECT_EQ(dense.slice(0).count, dense.elements()) << "it begins in the large tensor, which is one piece";
  for (const std::int64_t owner : {1, 2, 3}) EXPECT_EQ(dense.slice(owner).blocks, 0);
}

TEST(FlatLayout, TellsItsSlicesAsRunsOfLogicalTensors) {
  const FlatLayout experts(table(), 2, 2, 1);
  const std::vector<FlatRun> runs = experts.runs(0);
  ASSERT_EQ(runs.size(), 2U);
  EXPECT_EQ(runs[0].first, 40000);
  EXPECT_EQ(runs[0].count, 40000);
  EXPECT_EQ(runs[1].tensor, 3U);
  EXPECT_EQ(runs[1].first, 10);
  EXPECT_EQ(runs[1].in_slice, 40000);
  EXPECT_EQ(runs[1].count, 10);
}

TEST(FlatLayout, ShowsItsTensorsAsViews) {
  const FlatLayout experts(table(), 2, 2, 2);
  std::vector<float> memory(static_cast<std::size_t>(experts.elements()));
  std::vector<Tensor> tensors;
  experts.cut(table(), Tensor(memory.data(), {experts.elements()}, Dtype::f32), tensors);
  ASSERT_EQ(tensors.size(), 4U);
  EXPECT_FALSE(tensors[0]);
  EXPECT_FALSE(tensors[2]);
  EXPECT_EQ(tensors[1].shape, (Shape{2, 100, 200}));
  EXPECT_EQ(tensors[3].shape, (Shape{2, 5}));
  EXPECT_EQ(tensors[3].as<float>(), memory.data() + 40000);
}

TEST(FlatLayout, OfAModelWithoutExpertsIsEmpty) {
  const FlatLayout experts({table()[0]}, 0, 4, 2);
  EXPECT_EQ(experts.elements(), 0);
  EXPECT_EQ(experts.slice(1).count, 0);
}

}  // namespace
}  // namespace vitrail
