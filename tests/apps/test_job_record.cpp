#include <cstdlib>
#include <fstream>

#include <gtest/gtest.h>

#include "apps/build_facts.hpp"
#include "apps/job_record.hpp"
#include "base/file.hpp"
#include "tests/train/checkpoint_samples.hpp"

namespace vitrail {
namespace {

Json end_of(int steps) {
  return Json::object().set("steps", steps).set("train_wall_s", 2.5).set("data_wait_s", 0.25).set("checkpoint_s", 0.5);
}

class JobRecords : public ::testing::Test {
 protected:
  Json read(const std::string& name) {
    const auto path = folder_.path() / "jobs" / name;
    return Json::parse(read_file(path, ExitCode::other), path.string(), ExitCode::other);
  }
  testing::TemporaryFolder folder_;
  Log log_{"test"};
};

TEST_F(JobRecords, AreNumberedAndKeepStartAndEnd) {
  JobRecord first(log_, folder_.path(), Json::object().set("seed", 7));
  JobRecord second(log_, folder_.path(), Json::object().set("seed", 8));
  EXPECT_EQ(first.number(), 1);
  EXPECT_EQ(second.number(), 2);
  second.finish(end_of(3));
  EXPECT_EQ(read("0001.json"), Json::object().set("job", 1).set("seed", 7));
  EXPECT_EQ(read("0002.json").at("end").at("steps").as_integer(), 3);
  EXPECT_EQ(read("0002.json").at("seed").as_integer(), 8);
}

TEST_F(JobRecords, AreAddedUpAsFarAsTheirEndsAreKnown) {
  EXPECT_EQ(totals_of_jobs(folder_.path()).at("jobs").as_integer(), 0);
  JobRecord(log_, folder_.path(), Json::object()).finish(end_of(3));
  const JobRecord killed(log_, folder_.path(), Json::object());
  JobRecord(log_, folder_.path(), Json::object()).finish(end_of(4));
  std::ofstream(folder_.path() / "jobs" / "0009.json") << "{\"end\":";
  std::ofstream(folder_.path() / "jobs" / "notes.json") << "mine";
  const Json totals = totals_of_jobs(folder_.path());
  EXPECT_EQ(totals.at("jobs").as_integer(), 4);
  EXPECT_EQ(totals.at("ended").as_integer(), 2);
  EXPECT_EQ(totals.at("steps").as_integer(), 7);
  EXPECT_EQ(totals.at("train_wall_s").as_real(), 5);
  EXPECT_EQ(totals.at("checkpoint_s").as_real(), 1);
  EXPECT_EQ(JobRecord(log_, folder_.path(), Json::object()).number(), 10);
}

TEST_F(JobRecords, ThatCannotBeWrittenEndNothing) {
  std::ofstream(folder_.path() / "jobs") << "a file in the way";
  JobRecord record(log_, folder_.path(), Json::object());
  record.finish(end_of(1));
  EXPECT_EQ(totals_of_jobs(folder_.path()).at("jobs").as_integer(), 0);
}

TEST(SlurmVariables, AreThoseThatAreSet) {
  setenv("SLURM_JOB_ID", "4711", 1);
  unsetenv("SLURM_RESTART_COUNT");
  const Json found = slurm_variables();
  EXPECT_EQ(found.at("SLURM_JOB_ID").as_string(), "4711");
  EXPECT_FALSE(found.has("SLURM_RESTART_COUNT"));
  unsetenv("SLURM_JOB_ID");
}

TEST(BuildFacts, NameACommitAndTheLibrariesWithTheirVersions) {
  EXPECT_TRUE(git_commit() == "unknown" || git_commit().find_first_not_of("0123456789abcdef-irty") == std::string::npos)
      << git_commit();
  bool hdf5 = false;
  for (const std::string& one : built_with()) {
    EXPECT_NE(one.back(), ' ') << one << " has no version";
    hdf5 = hdf5 || one.starts_with("HDF5 1.");
  }
  EXPECT_TRUE(hdf5);
  EXPECT_EQ(build_facts().at("commit").as_string(), git_commit());
}

}  // namespace
}  // namespace vitrail
