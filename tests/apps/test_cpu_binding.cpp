#include <map>
#include <string>

#include <gtest/gtest.h>

#include "apps/cpu_binding.hpp"

namespace vitrail::testing {
namespace {

using Cpus = std::vector<int>;

std::optional<MpirunRank> rank_in(const std::map<std::string, std::string>& environment) {
  return rank_bound_by_default([&](const char* name) -> const char* {
    const auto found = environment.find(name);
    return found == environment.end() ? nullptr : found->second.c_str();
  });
}

TEST(CpuBinding, IsOursWhereMpirunChoseByDefault) {
  std::map<std::string, std::string> environment{{"OMPI_MCA_orte_bound_at_launch", "1"},
                                                 {"OMPI_COMM_WORLD_SIZE", "4"},
                                                 {"OMPI_COMM_WORLD_LOCAL_SIZE", "2"},
                                                 {"OMPI_COMM_WORLD_LOCAL_RANK", "1"}};
  const auto rank = rank_in(environment);
  ASSERT_TRUE(rank.has_value());
  EXPECT_EQ(rank->ranks, 4);
  EXPECT_EQ(rank->local_ranks, 2);
  EXPECT_EQ(rank->local_rank, 1);
  for (const char* told : {"OMPI_MCA_hwloc_base_binding_policy", "OMPI_MCA_rmaps_base_mapping_policy"}) {
    auto other = environment;
    other[told] = "core";
    EXPECT_FALSE(rank_in(other)) << told;
  }
  environment.erase("OMPI_MCA_orte_bound_at_launch");
  EXPECT_FALSE(rank_in(environment)) << "it bound nothing";
  EXPECT_FALSE(rank_in({})) << "no mpirun";
}

TEST(CpuBinding, EveryCoreComesOnceBeforeAnyComesAgain) {
  EXPECT_EQ(by_cores({0, 1, 2, 3}, [](int cpu) { return cpu; }), (Cpus{0, 1, 2, 3}));
  EXPECT_EQ(by_cores({0, 1, 2, 3}, [](int cpu) { return cpu / 2; }), (Cpus{0, 2, 1, 3}));
  EXPECT_EQ(by_cores({0, 1, 2, 3, 4, 5}, [](int cpu) { return cpu % 2; }), (Cpus{0, 1, 2, 3, 4, 5}));
  EXPECT_EQ(by_cores({}, [](int cpu) { return cpu; }), Cpus{});
}

TEST(CpuBinding, TwoRanksOfACoreEachAreGivenTheirThreadsCpus) {
  const Cpus all{0, 2, 4, 6, 1, 3, 5, 7};
  EXPECT_EQ(cpus_for_threads({2, 2, 0}, 2, {0, 1}, all), (Cpus{0, 2})) << "two CPUs, but of one core";
  EXPECT_EQ(cpus_for_threads({2, 2, 1}, 2, {2, 3}, all), (Cpus{4, 6}));
  EXPECT_EQ(cpus_for_threads({1, 1, 0}, 8, {0}, all), all);
  EXPECT_EQ(cpus_for_threads({2, 2, 1}, 5, {2}, all), all) << "too few for both";
  EXPECT_EQ(cpus_for_threads({2, 2, 1}, 1, {2}, all), std::nullopt);
}

TEST(CpuBinding, RanksOfAPackageKeepIt) {
  const Cpus all{0, 1, 2, 3, 4, 5, 6, 7};
  EXPECT_EQ(cpus_for_threads({4, 4, 1}, 2, {4, 5, 6, 7}, all), std::nullopt);
  EXPECT_EQ(cpus_for_threads({3, 1, 0}, 8, {0, 1, 2, 3}, all), all);
}

}  // namespace
}  // namespace vitrail::testing
