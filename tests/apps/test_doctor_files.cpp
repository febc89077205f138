#include <gtest/gtest.h>
#include <unistd.h>

#include "apps/doctor_files.hpp"

namespace vitrail {
namespace {

namespace fs = std::filesystem;
constexpr std::int64_t kGiB = std::int64_t{1} << 30;

class DoctorFilesTest : public ::testing::Test {
 protected:
  DoctorFilesTest() { fs::create_directories(folder_); }
  ~DoctorFilesTest() override { fs::remove_all(folder_); }

  Findings check(const fs::path& folder) {
    const auto self = make_self_communicator();
    return check_folder(*self, {"n1"}, folder, 1 << 20);
  }

  fs::path folder_ = fs::temp_directory_path() / ("vitrail doctor " + std::to_string(getpid()));
};

TEST_F(DoctorFilesTest, FindsNothingBadHereAndLeavesNothingBehind) {
  std::string checks;
  for (const Finding& one : check(folder_)) {
    EXPECT_NE(one.health, Health::bad) << one.check << ": " << one.said;
    checks += (checks.empty() ? "" : " ") + one.check;
  }
  EXPECT_EQ(checks, "run-dir space rename fsync locks locks speed clocks");
  EXPECT_TRUE(fs::is_empty(folder_));
}

TEST_F(DoctorFilesTest, AFolderThatIsNotThereIsBad) {
  const Findings found = check(folder_ / "nowhere");
  ASSERT_EQ(found.size(), 1);
  EXPECT_EQ(found[0].health, Health::bad);
  EXPECT_NE(found[0].said.find("n1 sees no folder"), std::string::npos);
  EXPECT_FALSE(fs::exists(folder_ / "nowhere"));
}

TEST_F(DoctorFilesTest, AFolderWithoutRoomForAnythingIsBad) {
  const Findings found = check("/proc");  // nobody may make files there, not even root
  ASSERT_EQ(found.size(), 1);
  EXPECT_EQ(found[0].health, Health::bad);
  EXPECT_NE(found[0].said.find("cannot make anything in '/proc'"), std::string::npos);
}

TEST(DoctorFiles, LittleSpaceIsAWarningAndNoneIsBad) {
  EXPECT_EQ(judge_space(100 * kGiB, -1).health, Health::ok);
  EXPECT_EQ(judge_space(5 * kGiB, -1).health, Health::warn);
  EXPECT_EQ(judge_space(kGiB / 2, -1).health, Health::bad);
  EXPECT_EQ(judge_space(100 * kGiB, 3).health, Health::bad);
}

TEST(DoctorFiles, LocksThatOthersDoNotSeeAreAWarning) {
  using enum LockSeen;
  EXPECT_EQ(judge_lock("flock", {held, held}, false).health, Health::ok);
  EXPECT_EQ(judge_lock("flock", {held, free}, false).health, Health::warn);
  EXPECT_EQ(judge_lock("flock", {refused, refused}, false).health, Health::warn);
  EXPECT_EQ(judge_lock("flock", {refused, refused}, true).health, Health::ok);
}

TEST(DoctorFiles, TheSlowestRankDecidesTheSpeed) {
  EXPECT_EQ(judge_speed(64 << 20, {0.1, 0.1}, {0.1, 0.1}).health, Health::ok);
  EXPECT_EQ(judge_speed(64 << 20, {0.1, 10}, {0.1, 0.1}).health, Health::warn);
  EXPECT_EQ(judge_speed(64 << 20, {0.1, 0.1}, {10, 0.1}).health, Health::warn);
}

TEST(DoctorFiles, SlowSyncsAndOtherClocksAreWarnings) {
  EXPECT_EQ(judge_sync(0.01).health, Health::ok);
  EXPECT_EQ(judge_sync(1).health, Health::warn);
  EXPECT_EQ(judge_file_clock({0.01, -0.5}).health, Health::ok);
  EXPECT_EQ(judge_file_clock({0.01, -30}).health, Health::warn);
  EXPECT_EQ(judge_file_clock({30, 0}).health, Health::warn);
}

}  // namespace
}  // namespace vitrail
