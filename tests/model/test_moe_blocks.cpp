#include <gtest/gtest.h>

#include "model/config.hpp"
#include "model/moe_blocks.hpp"

namespace vitrail {
namespace {

using Blocks = std::vector<std::int64_t>;

TEST(MoeBlocksByNumber, AreListsAndRuns) {
  EXPECT_EQ(moe_blocks_by_number("6-11"), (Blocks{6, 7, 8, 9, 10, 11}));
  EXPECT_EQ(moe_blocks_by_number("1,3,10-11"), (Blocks{1, 3, 10, 11}));
  EXPECT_EQ(moe_blocks_by_number("0"), Blocks{0});
}

TEST(MoeBlocksByNumber, AreNotWhatDoesNotAscend) {
  for (const char* list : {"", ",1", "3,1", "1,1", "5-3", "-2", "1-", "1-2-3", "123456", "last-2", "1 ,2"}) {
    EXPECT_EQ(moe_blocks_by_number(list), Blocks{}) << list;
  }
}

TEST(MoeBlocksByNumber, HaveNamesThatGiveThemAgain) {
  const std::vector<std::pair<Blocks, std::string>> named = {
      {{}, "none"}, {{1, 3, 5, 7}, "every-2"}, {{2, 5}, "every-3"},      {{5, 7}, "last-2"},
      {{0}, "0"},   {{2, 3, 4}, "2-4"},        {{1, 3, 6, 7}, "1,3,6-7"}};
  for (const auto& [blocks, name] : named) {
    EXPECT_EQ(name_of_moe_blocks(blocks, 8), name);
    EXPECT_EQ(moe_blocks_by_name(name, 8), blocks);
  }
}

}  // namespace
}  // namespace vitrail
