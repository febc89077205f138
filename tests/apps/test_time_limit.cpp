#include <cstdlib>
#include <ctime>
#include <fstream>

#include <gtest/gtest.h>

#include "apps/time_limit.hpp"
#include "base/error.hpp"
#include "base/timer.hpp"
#include "tests/train/checkpoint_samples.hpp"

namespace vitrail {
namespace {

namespace fs = std::filesystem;

TEST(Duration, UnderstandsSecondsUnitsAndWhatSlurmWrites) {
  EXPECT_EQ(duration_of("3600"), 3600);
  EXPECT_EQ(duration_of("45s"), 45);
  EXPECT_EQ(duration_of("90m"), 5400);
  EXPECT_EQ(duration_of("12h"), 43200);
  EXPECT_EQ(duration_of("2d"), 172800);
  EXPECT_EQ(duration_of("30:15"), 1815);
  EXPECT_EQ(duration_of("1:30:00"), 5400);
  EXPECT_EQ(duration_of("2-12"), 216000);
  EXPECT_EQ(duration_of("2-12:30"), 217800);
  EXPECT_EQ(duration_of("2-00:00:01"), 172801);
}

TEST(Duration, RefusesWhatIsNoTime) {
  for (const char* words : {"", "0", "0m", "x", "5x", "m", "-5", "1:2:3:4", "1:", ":5", "1-", "-1", "1-2:3:4:5", "1.5h",
                            "1 h", "99999999999999999999"}) {
    try {
      const double seconds = duration_of(words);
      ADD_FAILURE() << "'" << words << "' was taken for " << seconds << " s";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::usage);
      EXPECT_NE(std::string(error.what()).find(text("'", words, "' is no time")), std::string::npos) << error.what();
    }
  }
}

TEST(Moment, IsReadInLocalTime) {
  std::tm parts{};
  parts.tm_year = 126;
  parts.tm_mon = 10;
  parts.tm_mday = 29;
  parts.tm_hour = 21;
  parts.tm_min = 34;
  parts.tm_sec = 13;
  parts.tm_isdst = -1;
  const auto expected = static_cast<double>(std::mktime(&parts));
  EXPECT_EQ(moment_of("2026-11-29T21:34:13"), expected);
  EXPECT_EQ(moment_of("2026-11-29T21:34:13 \n"), expected);
  EXPECT_EQ(local_time(expected), "2026-11-29 21:34:13");
}

TEST(Moment, IsUnknownWhenSqueueSaysSo) {
  for (const char* words : {"", "Unknown", "N/A", "INVALID", "2026-11-29", "2026-11-29T21:34:13x"}) {
    EXPECT_EQ(moment_of(words), std::nullopt) << words;
  }
}

/// A squeue of its own stands first in PATH.
class EndOfAJob : public ::testing::Test {
 protected:
  EndOfAJob() {
    unsetenv("SLURM_JOB_END_TIME");
    setenv("SLURM_JOB_ID", "4711", 1);
    setenv("PATH", (folder_.path().string() + ":" + old_path_).c_str(), 1);
  }
  ~EndOfAJob() override {
    setenv("PATH", old_path_.c_str(), 1);
    unsetenv("SLURM_JOB_ID");
    unsetenv("SLURM_JOB_END_TIME");
  }
  void make_squeue(const std::string& script) {
    const fs::path path = folder_.path() / "squeue";
    std::ofstream(path) << "#!/bin/sh\n" << script << "\n";
    fs::permissions(path, fs::perms::owner_all);
  }
  std::optional<EndOfJob> find(const std::string& time_limit = "", double patience_s = 20) {
    return find_end_of_job(time_limit, 1000, folder_.path(), patience_s);
  }
  /// Everything in the folder but squeue.
  bool is_clean() {
    std::size_t files = 0;
    for (const auto& entry : fs::directory_iterator(folder_.path())) files += entry.path().filename() != "squeue";
    return files == 0;
  }

  testing::TemporaryFolder folder_;
  std::string old_path_ = std::getenv("PATH");
};

TEST_F(EndOfAJob, IsThatOfTheOptionFirst) {
  setenv("SLURM_JOB_END_TIME", "5000", 1);
  const auto end = find("90m");
  ASSERT_TRUE(end);
  EXPECT_EQ(end->unix_s, 1000 + 5400);
  EXPECT_EQ(end->source, "--time-limit 90m");
}

TEST_F(EndOfAJob, IsThatOfTheVariableBeforeSqueueIsAsked) {
  setenv("SLURM_JOB_END_TIME", "5000", 1);
  make_squeue("echo 2026-11-29T21:34:13");
  const auto end = find();
  ASSERT_TRUE(end);
  EXPECT_EQ(end->unix_s, 5000);
  EXPECT_EQ(end->source, "SLURM_JOB_END_TIME");
}

TEST_F(EndOfAJob, IsAskedOfSqueue) {
  make_squeue(
      R"([ "$*" = "-h -j 4711 -O EndTime" ] && [ "$SLURM_TIME_FORMAT" = standard ] && echo 2026-11-29T21:34:13)");
  const auto end = find();
  ASSERT_TRUE(end);
  EXPECT_EQ(end->unix_s, *moment_of("2026-11-29T21:34:13"));
  EXPECT_EQ(end->source, "squeue");
  EXPECT_TRUE(is_clean());
}

TEST_F(EndOfAJob, IsNotKnownWhenSqueueFailsOrDoesNotKnow) {
  for (const char* script : {"exit 1", "echo Unknown", "echo 2026-11-29T21:34:13; exit 1", ""}) {
    make_squeue(script);
    EXPECT_FALSE(find()) << script;
    EXPECT_TRUE(is_clean());
  }
}

TEST_F(EndOfAJob, IsNotWaitedForWhenSqueueHangs) {
  make_squeue("exec sleep 60");
  const Stopwatch clock;
  EXPECT_FALSE(find("", 0.2));
  EXPECT_LT(clock.seconds(), 20);
  EXPECT_TRUE(is_clean());
}

TEST_F(EndOfAJob, TakesNoJobIdThatIsNoNumber) {
  make_squeue("echo 2026-11-29T21:34:13");
  for (const char* job : {"", "4711; rm -rf /", "--help", "4711,4712"}) {
    setenv("SLURM_JOB_ID", job, 1);
    EXPECT_FALSE(find()) << job;
  }
  unsetenv("SLURM_JOB_ID");
  EXPECT_FALSE(find());
}

}  // namespace
}  // namespace vitrail
