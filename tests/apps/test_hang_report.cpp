#include <chrono>
#include <limits>
#include <thread>

#include <gtest/gtest.h>

#include "apps/hang_report.hpp"
#include "tests/errors.hpp"

namespace vitrail::testing {
namespace {

const std::vector<std::string> kHosts = {"n1", "n1", "n2", "n2"};

RankAtRest rank_in(std::int64_t rank, const std::string& where, std::int64_t collectives) {
  RankAtRest one;
  one.rank = rank;
  one.host = kHosts.at(static_cast<std::size_t>(rank));
  one.where = where;
  one.collectives = collectives;
  one.still_s = 30;
  one.since = "2026-11-29 14:03:22 UTC";
  return one;
}

TEST(HangReport, ALineSaysWhereSinceWhenAndAtWhichCollective) {
  const std::string said = hang_line(rank_in(1, "in finish_all_to_all, layer 1, step 12", 512));
  EXPECT_EQ(said,
            "hang: in finish_all_to_all, layer 1, step 12 for 30.0 s, since 2026-11-29 14:03:22 UTC (collective "
            "512)");
}

TEST(HangReport, SurvivesItsFile) {
  RankAtRest one = rank_in(3, "in \"x\"", 7);
  one.step = 4;
  one.layer = 2;
  one.moving = true;
  const RankAtRest read = rank_at_rest(Json::parse(to_json(one).dump(), "here", ExitCode::other));
  EXPECT_EQ(to_json(read), to_json(one));
  EXPECT_EQ(read.where, one.where);
  EXPECT_TRUE(read.moving);
}

TEST(HangReport, NamesTheRankThatHasEnteredFewerCollectives) {
  const std::string said =
      hang_summary(kHosts, {rank_in(0, "in finish_all_to_all, step 3", 12), rank_in(1, "in mlp_forward, step 3", 11),
                            rank_in(2, "in finish_all_to_all, step 3", 12), rank_in(3, "in all_sum, step 3", 14)});
  EXPECT_EQ(said,
            "no progress for 30.0 s: rank 1 on n1 did not arrive, it is in mlp_forward, step 3 (ranks 0 and "
            "2 are in finish_all_to_all, step 3; rank 3 is in all_sum, step 3)");
}

TEST(HangReport, NamesSeveralThatDidNotArrive) {
  const std::string said = hang_summary(kHosts, {rank_in(0, "in barrier, step 3", 12), rank_in(1, "in a, step 3", 11),
                                                 rank_in(2, "in a, step 3", 11), rank_in(3, "in b, step 3", 11)});
  EXPECT_EQ(said,
            "no progress for 30.0 s: rank 1 on n1, rank 2 on n2 and rank 3 on n2 did not arrive: ranks 1 and 2 are "
            "in a, step 3; rank 3 is in b, step 3 (rank 0 is in barrier, step 3)");
}

TEST(HangReport, ARankWithoutAnAnswerIsToBlameAndNotTheOneThatWaitsForIt) {
  const std::string said = hang_summary(
      kHosts, {rank_in(0, "in barrier, step 3", 11), std::nullopt, rank_in(2, "in all_sum, step 3", 14), std::nullopt});
  EXPECT_EQ(said.find("no progress for 30.0 s: rank 1 on n1 and rank 3 on n2 do not answer"), 0U) << said;
  EXPECT_EQ(said.find("did not arrive"), std::string::npos);
}

TEST(HangReport, BlamesNobodyWhenAllHaveArrived) {
  const std::string said =
      hang_summary(kHosts, {rank_in(0, "in barrier, step 3", 11), rank_in(1, "in barrier, step 3", 11)});
  EXPECT_NE(said.find("no rank is missing, all are at collective 11 (ranks 0 and 1 are in barrier, step 3)"),
            std::string::npos)
      << said;
}

TEST(HangReport, SaysWhichRankStillMoves) {
  RankAtRest slow = rank_in(0, "in mlp_forward, step 3", 10);
  slow.moving = true;
  slow.still_s = 0.1;
  const std::string said = hang_summary(kHosts, {slow, rank_in(1, "in barrier, step 3", 11)});
  EXPECT_NE(said.find("rank 0 on n1 did not arrive, it is in mlp_forward, step 3, and still moves ("),
            std::string::npos)
      << said;
}

TEST(HangWatch, RefusesATimeThatIsNone) {
  const auto self = make_self_communicator();
  Activity activity;
  for (const double time : {-1.0, std::numeric_limits<double>::quiet_NaN()}) {
    EXPECT_EQ(error_of([&] { const HangWatch watch({"prog", "", time}, *self, activity); }).code(), ExitCode::usage);
  }
}

TEST(HangWatch, CountsTheTimeFromItsStart) {
  const auto self = make_self_communicator();
  Activity activity;
  const HangWatch watch({"prog", "nowhere", 1800}, *self, activity);
  std::this_thread::sleep_for(std::chrono::milliseconds(5));
  EXPECT_GT(activity.look().since_s, 0) << "a rank that never marks anything hangs as well";
}

TEST(HangWatch, MakesNoFolderUnlessItHangs) {
  const auto folder = std::filesystem::temp_directory_path() / "vitrail-no-hang";
  std::filesystem::remove_all(folder);
  const auto self = make_self_communicator();
  Activity activity;
  for (const double time : {0.0, 1800.0}) {
    const HangWatch watch({"prog", folder, time}, *self, activity);
  }
  EXPECT_FALSE(std::filesystem::exists(folder));
}

}  // namespace
}  // namespace vitrail::testing
