#include <map>

#include <gtest/gtest.h>

#include "apps/launch_check.hpp"
#include "tests/errors.hpp"

namespace vitrail::testing {
namespace {

/// So many ranks of a host, each of which may run on these CPUs.
std::vector<RankFacts> ranks_on(const std::string& host, int count, const std::string& cpus, std::int64_t claimed = 0) {
  return std::vector<RankFacts>(static_cast<std::size_t>(count), RankFacts{host, cpus, claimed, "same", "same"});
}

std::vector<RankFacts> both(std::vector<RankFacts> a, const std::vector<RankFacts>& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

std::string said_about(const std::vector<RankFacts>& ranks, std::int64_t threads = 1, bool oversubscribe = false) {
  return error_of([&] { (void)expect_enough_cpus(ranks, threads, oversubscribe); }).what();
}

TEST(LaunchCheck, RefusesMoreRanksOnAHostThanCpus) {
  const auto ranks = both(ranks_on("n1", 2, "3"), ranks_on("n2", 3, "3"));
  EXPECT_EQ(said_about(ranks).find("3 ranks run on n2, where they may use 2 CPUs"), 0U) << said_about(ranks);
  EXPECT_NE(said_about(ranks).find("at most 2 per node"), std::string::npos);
  EXPECT_NE(said_about(ranks).find("--oversubscribe"), std::string::npos);
  EXPECT_EQ(said_about(ranks, 1, true), "no error");
  EXPECT_EQ(said_about(ranks_on("n1", 2, "3")), "no error");
}

TEST(LaunchCheck, CpusAreThoseThatAnyOfTheRanksMayUse) {
  // Bound to one CPU each: 0, 1 and 64. And all to the same one.
  const std::string far = std::string(16, '0') + "1";
  EXPECT_EQ(said_about(both(both(ranks_on("n1", 1, "1"), ranks_on("n1", 1, "2")), ranks_on("n1", 1, far))), "no error");
  EXPECT_EQ(said_about(ranks_on("n1", 3, "2")).find("3 ranks run on n1, where they may use 1 CPU "), 0U);
}

TEST(LaunchCheck, ASimulatedNodeHasTheCpusThatItClaims) {
  EXPECT_EQ(said_about(ranks_on("n1", 4, "3", 4)), "no error");
  EXPECT_NE(said_about(ranks_on("n1", 5, "3", 4)), "no error");
}

TEST(LaunchCheck, WarnsWhenThreadsAreMoreThanCpus) {
  const auto ranks = ranks_on("n1", 2, "f");
  EXPECT_EQ(expect_enough_cpus(ranks, 2, false), std::nullopt);
  const auto warning = expect_enough_cpus(ranks, 3, false);
  ASSERT_TRUE(warning.has_value());
  EXPECT_EQ(warning->find("2 ranks of 3 threads run on n1, where they may use 4 CPUs"), 0U) << *warning;
  EXPECT_EQ(expect_enough_cpus(ranks, 3, true), std::nullopt);
}

TEST(LaunchCheck, KnowsWhereThisThreadMayRun) {
  const std::string cpus = cpus_of_thread();
  EXPECT_NE(cpus, "");
  EXPECT_EQ(cpus.find_first_not_of("0123456789abcdef"), std::string::npos) << cpus;
}

TEST(LaunchCheck, TheLauncherMaySayThatItIsMeant) {
  const auto says = [](const std::map<std::string, std::string>& environment) {
    return launcher_oversubscribes([&](const char* name) -> const char* {
      const auto found = environment.find(name);
      return found == environment.end() ? nullptr : found->second.c_str();
    });
  };
  EXPECT_FALSE(says({}));
  EXPECT_TRUE(says({{"OMPI_MCA_rmaps_base_oversubscribe", "1"}}));
  EXPECT_TRUE(says({{"OMPI_MCA_rmaps_base_oversubscribe", "true"}}));
  EXPECT_FALSE(says({{"OMPI_MCA_rmaps_base_oversubscribe", "0"}}));
  EXPECT_TRUE(says({{"PRTE_MCA_rmaps_default_mapping_policy", "core:OVERSUBSCRIBE"}}));
  EXPECT_TRUE(says({{"PRTE_MCA_rmaps_default_mapping_policy", ":oversubscribe"}}));
  EXPECT_FALSE(says({{"PRTE_MCA_rmaps_default_mapping_policy", "core:nooversubscribe"}}));
  EXPECT_TRUE(says({{"SLURM_OVERCOMMIT", "1"}}));
}

TEST(LaunchCheck, NamesTheRanksOfAnotherProgram) {
  auto ranks = both(ranks_on("n1", 2, "3"), ranks_on("n2", 2, "3"));
  EXPECT_NO_THROW(expect_same_binary(ranks));
  ranks[2].binary = "other";
  const Error error = error_of([&] { expect_same_binary(ranks); });
  EXPECT_EQ(error.code(), ExitCode::usage);
  EXPECT_EQ(std::string(error.what()).find("another program runs as rank 2 on n2 than as rank 0 on n1"), 0U)
      << error.what();
}

TEST(LaunchCheck, NamesTheRanksWithOtherSettingsAndWhatDiffers) {
  const auto ranks = both(ranks_on("n1", 2, "3"), ranks_on("n2", 1, "3"));
  const auto settings = [](const std::string& seed, const std::string& batch) {
    return Json::object()
        .set("seed", Json::array().push_back(seed))
        .set("batch", Json::array().push_back(batch))
        .set("resume", Json::array())
        .dump();
  };
  EXPECT_NO_THROW(expect_same_settings({settings("0", "8"), settings("0", "8")}, ranks));
  const Error error = error_of([&] {
    expect_same_settings({settings("0", "8"), settings("1", "8"), settings("0", "16")}, ranks);
  });
  EXPECT_EQ(error.code(), ExitCode::usage);
  const std::string said = error.what();
  EXPECT_EQ(said.find("other settings hold for rank 1 on n1 and rank 2 on n2 than for rank 0 on n1"), 0U) << said;
  EXPECT_NE(said.find("ranks 0 and 1 differ in --seed (0 and 1)"), std::string::npos) << said;
  EXPECT_EQ(said.find("--batch"), std::string::npos) << said;
}

TEST(LaunchCheck, ComparesSettingsAndWhatTheDataHoldsButNotWhereThingsAre) {
  std::filesystem::path data = "here";
  std::int64_t gpu = 0, seed = 0;
  Options options("prog", "");
  options.add("data", data, "PATH", "");
  options.add("gpu", gpu, "N", "");
  options.add("seed", seed, "N", "");
  const Json before = compared_settings(options, "a");
  data = "there";
  gpu = 1;  // NOLINT(clang-analyzer-deadcode.DeadStores): read through `options`
  EXPECT_EQ(compared_settings(options, "a"), before);
  EXPECT_FALSE(compared_settings(options, "b") == before);
  seed = 1;  // NOLINT(clang-analyzer-deadcode.DeadStores): as above
  EXPECT_FALSE(compared_settings(options, "a") == before);
}

TEST(LaunchCheck, FactsSurviveTheirText) {
  const RankFacts facts{"n1", "f0", 4, "abc", "def"};
  const RankFacts read = rank_facts(Json::parse(to_json(facts).dump(), "here", ExitCode::other));
  EXPECT_EQ(to_json(read), to_json(facts));
  EXPECT_EQ(read.claimed_cpus, 4);
}

}  // namespace
}  // namespace vitrail::testing
