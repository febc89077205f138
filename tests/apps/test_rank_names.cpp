#include <gtest/gtest.h>

#include "apps/rank_names.hpp"

namespace vitrail {
namespace {

TEST(RankNames, AreASentenceThatStaysShort) {
  EXPECT_EQ(rank_names({3}), "rank 3");
  EXPECT_EQ(rank_names({0, 2}), "ranks 0 and 2");
  EXPECT_EQ(rank_names({0, 2, 5}), "ranks 0, 2 and 5");
  EXPECT_EQ(rank_names({0, 1, 2, 3, 4}), "ranks 0, 1, 2, 3 and 4");
  EXPECT_EQ(rank_names({0, 1, 2, 3, 4, 5}), "ranks 0, 1, 2, 3 and 2 more");
}

TEST(RankNames, SayWhereTheyRun) {
  const std::vector<std::string> hosts = {"n1", "n1", "n2", "n2", "n3", "n3"};
  EXPECT_EQ(rank_names_with_hosts({2}, hosts), "rank 2 on n2");
  EXPECT_EQ(rank_names_with_hosts({1, 4}, hosts), "rank 1 on n1 and rank 4 on n3");
  EXPECT_EQ(rank_names_with_hosts({0, 1, 2, 3, 4, 5}, hosts),
            "rank 0 on n1, rank 1 on n1, rank 2 on n2, rank 3 on n2 and 2 more");
}

}  // namespace
}  // namespace vitrail
