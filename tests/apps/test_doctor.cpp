#include <sstream>

#include <gtest/gtest.h>

#include "apps/doctor.hpp"
#include "tests/errors.hpp"

namespace vitrail {
namespace {

using testing::error_of;
using Hosts = std::vector<std::string>;

TEST(Doctor, FindingsTravelAsJson) {
  const Findings findings{ok("cpu", "fine"), warn("limits", "low", "raise it"),
                          of_job(bad("mpi", "two \"worlds\"\n", "try"))};
  EXPECT_EQ(findings_from_json(Json::parse(to_json(findings).dump(), "test", ExitCode::other)), findings);
  const Json wrong = Json::parse(R"([{"health":"fine","check":"","said":"","advice":""}])", "test", ExitCode::other);
  EXPECT_EQ(error_of([&] { (void)findings_from_json(wrong); }).code(), ExitCode::other);
}

TEST(Doctor, SaysOnceWhatSeveralRanksFound) {
  const auto all =
      shared({{ok("cpu", "8 cores"), ok("memory", "60 GB")}, {ok("cpu", "8 cores"), ok("memory", "61 GB")}});
  ASSERT_EQ(all.size(), 2);
  EXPECT_EQ(all[0].ranks, (std::vector<int>{0, 1}));
  EXPECT_EQ(all[1].finding.said, "60 GB");
}

TEST(Doctor, KeepsApartWhatIsBadInOtherWords) {
  const auto all = shared({{bad("files", "no /a", "x")}, {bad("files", "no /b", "x")}, {bad("files", "no /b", "x")}});
  ASSERT_EQ(all.size(), 2);
  EXPECT_EQ(all[1].ranks, (std::vector<int>{1, 2}));
}

TEST(Doctor, KeepsApartWhatOneRankSaysInOtherWords) {
  const Findings locks{ok("locks", "fcntl"), ok("locks", "flock")};
  const auto all = shared({locks, locks});
  ASSERT_EQ(all.size(), 2);
  EXPECT_EQ(all[0].finding.said, "fcntl");
  EXPECT_EQ(all[1].finding.said, "flock");
  EXPECT_EQ(all[1].ranks, (std::vector<int>{0, 1}));
}

TEST(Doctor, KeepsTheFindingsOfACheckTogether) {
  const auto all = shared({{ok("cpu", "a"), ok("memory", "b")}, {warn("cpu", "c", "d")}});
  ASSERT_EQ(all.size(), 3);
  EXPECT_EQ(all[1].finding.said, "c");
}

TEST(Doctor, NamesNodesOrRanks) {
  const Hosts hosts{"n1", "n1", "n2", "n2"};
  EXPECT_EQ(who_text({0, 1, 2, 3}, hosts), "");
  EXPECT_EQ(who_text({0, 2}, hosts), "");  // the first ranks of all nodes
  EXPECT_EQ(who_text({0}, hosts), "n1");
  EXPECT_EQ(who_text({2}, hosts), "n2");  // the first rank of a node
  EXPECT_EQ(who_text({3}, hosts), "rank 3");
  EXPECT_EQ(who_text({1, 2}, hosts), "ranks 1 2");
}

TEST(Doctor, NamesEightAtMost) {
  const Hosts hosts(40, "n1");
  EXPECT_EQ(who_text({1, 2, 3, 4, 5, 6, 7, 8, 9, 10}, hosts), "ranks 1 2 3 4 5 6 7 8 and 2 more");
}

TEST(Doctor, NamesNobodyForWhatIsSaidOfTheJob) {
  std::ostringstream out;
  print_findings(out, shared({{of_job(ok("clocks", "the same"))}, {}}), {"n1", "n2"});
  EXPECT_EQ(out.str(), "ok    clocks      the same\n1 ok, 0 to look at, 0 bad\n");
}

TEST(Doctor, PrintsALineForEachAndCountsThem) {
  std::ostringstream out;
  print_findings(out, shared({{ok("cpu", "fine")}, {ok("cpu", "fine"), warn("limits", "low", "Raise it")}}),
                 {"n1", "n1"});
  EXPECT_EQ(out.str(),
            "ok    cpu         fine\n"
            "warn  limits      rank 1: low. Raise it\n"
            "1 ok, 1 to look at, 0 bad\n");
}

}  // namespace
}  // namespace vitrail
