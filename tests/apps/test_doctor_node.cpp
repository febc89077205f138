#include <gtest/gtest.h>

#include "apps/doctor_node.hpp"

namespace vitrail {
namespace {

constexpr std::int64_t kGiB = std::int64_t{1} << 30;

std::vector<Pinning> pinned(std::vector<std::vector<int>> ranks, int online) {
  std::vector<Pinning> all;
  all.reserve(ranks.size());
  for (auto& cpus : ranks) all.push_back({"n1", std::move(cpus), online});
  return all;
}

Health health_of(const Findings& findings) {
  Health worst = Health::ok;
  for (const Finding& one : findings) worst = std::max(worst, one.health);
  return worst;
}

TEST(DoctorNode, ListsCoresAsLinuxDoes) {
  EXPECT_EQ(cpu_list({0, 1, 2, 3, 8}), "0-3,8");
  EXPECT_EQ(cpu_list({5}), "5");
  EXPECT_EQ(cpu_list({}), "");
  EXPECT_EQ(cpus_of_list("0-3,8"), (std::vector<int>{0, 1, 2, 3, 8}));
  for (const char* wrong : {"", "x", "3-1", "1-", "-1", "0-99999999"})
    EXPECT_TRUE(cpus_of_list(wrong).empty()) << wrong;
}

TEST(DoctorNode, SeesWhereThisProcessMayRun) {
  const Pinning seen = see_pinning("here");
  EXPECT_FALSE(seen.cpus.empty());
  EXPECT_GE(seen.online, 1);
}

TEST(DoctorNode, SeesLimitsAndMemory) {
  EXPECT_GT(see_limits().files, 0);
  const MemorySeen memory = see_memory();
  EXPECT_GT(memory.total, 0);
  EXPECT_GT(memory.cgroup_limit, 0);
}

TEST(DoctorNode, RanksWithCoresOfTheirOwnAreWell) {
  EXPECT_EQ(health_of(judge_pinning(pinned({{0, 1}, {2, 3}}, 4))), Health::ok);
  EXPECT_EQ(health_of(judge_pinning(pinned({{0, 1, 2, 3}, {0, 1, 2, 3}}, 4))), Health::ok);
}

TEST(DoctorNode, AllRanksOnOneCoreOfManyAreBad) {
  const Findings found = judge_pinning(pinned({{0}, {0}, {0}}, 8));
  ASSERT_EQ(found.size(), 1);
  EXPECT_EQ(found[0].health, Health::bad);
  EXPECT_EQ(found[0].said, "3 ranks of n1 share 1 core (0) of 8");
}

TEST(DoctorNode, TwoRanksOnOneCoreAreBadThoughTheOthersAreNot) {
  EXPECT_EQ(health_of(judge_pinning(pinned({{0}, {0}, {1, 2, 3}}, 4))), Health::bad);
}

TEST(DoctorNode, MoreRanksThanCoresAreAWarning) {
  EXPECT_EQ(health_of(judge_pinning(pinned({{0, 1}, {0, 1}, {0, 1}}, 2))), Health::warn);
  EXPECT_EQ(health_of(judge_pinning(pinned({{0}, {0}}, 1))), Health::warn);  // there is no other
}

TEST(DoctorNode, CoresOfTwoNodesAreNotOneCore) {
  auto ranks = pinned({{0}, {0}}, 4);
  ranks[1].host = "n2";
  EXPECT_EQ(health_of(judge_pinning(ranks)), Health::ok);
}

TEST(DoctorNode, LimitsThatHurt) {
  EXPECT_EQ(health_of(judge_limits({})), Health::ok);
  EXPECT_EQ(health_of(judge_limits({.locked = 8 << 20})), Health::warn);
  EXPECT_EQ(health_of(judge_limits({.files = 1024})), Health::warn);
  EXPECT_EQ(health_of(judge_limits({.files = 256})), Health::bad);
  EXPECT_EQ(health_of(judge_limits({.file_size = kGiB})), Health::bad);
  EXPECT_EQ(health_of(judge_limits({.address = 64 * kGiB})), Health::warn);
  EXPECT_EQ(health_of(judge_limits({.stack = 1 << 20})), Health::warn);
}

TEST(DoctorNode, MemoryIsForAllRanksOfTheNode) {
  const MemorySeen seen{.total = 64 * kGiB, .available = 8 * kGiB, .cgroup_limit = kUnlimited, .shared_free = kGiB};
  EXPECT_EQ(health_of(judge_memory(seen, 8)), Health::ok);
  EXPECT_EQ(health_of(judge_memory(seen, 9)), Health::warn);
}

TEST(DoctorNode, TheJobsShareOfMemoryCounts) {
  const MemorySeen seen{.total = 64 * kGiB, .available = 60 * kGiB, .cgroup_limit = kGiB / 2, .shared_free = kGiB};
  EXPECT_EQ(health_of(judge_memory(seen, 1)), Health::warn);
}

TEST(DoctorNode, SharedMemoryMattersToSeveralRanks) {
  const MemorySeen seen{.total = 64 * kGiB, .available = 60 * kGiB, .cgroup_limit = kUnlimited, .shared_free = 1 << 20};
  EXPECT_EQ(health_of(judge_memory(seen, 1)), Health::ok);
  EXPECT_EQ(health_of(judge_memory(seen, 2)), Health::warn);
}

TEST(DoctorNode, AQuotaBelowTheRanksIsAWarning) {
  EXPECT_TRUE(judge_cpu_quota(-1, 4, 8).empty());
  EXPECT_TRUE(judge_cpu_quota(8, 4, 8).empty());
  EXPECT_EQ(health_of(judge_cpu_quota(4, 4, 8)), Health::ok);
  EXPECT_EQ(health_of(judge_cpu_quota(1.5, 4, 8)), Health::warn);
}

TEST(DoctorNode, ProcessorsOfTwoKindsAreAWarningOnTheBetter) {
  EXPECT_EQ(judge_processor({"x", 4}, 4).health, Health::ok);
  EXPECT_EQ(judge_processor({"x", 4}, 2).health, Health::warn);
  EXPECT_EQ(judge_processor({"x", 2}, 2).health, Health::ok);
  EXPECT_EQ(judge_processor({"x", 1}, 1).health, Health::warn);
}

}  // namespace
}  // namespace vitrail
