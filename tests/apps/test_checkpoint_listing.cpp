#include <fstream>

#include <gtest/gtest.h>

#include "apps/checkpoint_listing.hpp"
#include "tests/errors.hpp"
#include "tests/train/checkpoint_samples.hpp"

namespace vitrail {
namespace {

namespace fs = std::filesystem;
using State = ListedCheckpoint::State;
using vitrail::testing::Sample;
using vitrail::testing::save;
using vitrail::testing::TemporaryFolder;

class CheckpointListingTest : public ::testing::Test {
 protected:
  [[nodiscard]] fs::path checkpoints() const { return folder_.path() / "checkpoints"; }

  TemporaryFolder folder_;
  const Sample one_{1};
  const Sample two_{2};
};

TEST_F(CheckpointListingTest, ARunWithoutCheckpointsHasNone) { EXPECT_TRUE(list_checkpoints(folder_.path()).empty()); }

TEST_F(CheckpointListingTest, AFolderThatIsNotThereIsAnError) {
  const Error error = vitrail::testing::error_of([&] { (void)list_checkpoints(folder_.path() / "nowhere"); });
  EXPECT_EQ(error.code(), ExitCode::checkpoint);
}

TEST_F(CheckpointListingTest, TheNewestComesFirstAndTheLatestIsTheOneToResumeFrom) {
  save(folder_.path(), 1, one_);
  save(folder_.path(), 2, two_);
  for (const fs::path& path : {folder_.path(), checkpoints(), checkpoints() / ""}) {
    const auto found = list_checkpoints(path);
    ASSERT_EQ(found.size(), 2) << path;
    EXPECT_GT(found[0].step, found[1].step);
    EXPECT_TRUE(found[0].latest);
    EXPECT_FALSE(found[1].latest);
    EXPECT_EQ(found[0].state, State::complete);
    EXPECT_EQ(found[0].files, 1);
    EXPECT_GT(found[0].bytes, 0);
    EXPECT_GT(found[0].tensors, 0);
    EXPECT_EQ(found[0].written.size(), 19);
  }
}

TEST_F(CheckpointListingTest, TellsUnfinishedFromDamaged) {
  save(folder_.path(), 1, one_);
  save(folder_.path(), 2, two_);
  const auto before = list_checkpoints(folder_.path());
  fs::rename(before[0].path, before[0].path.string() + ".tmp");
  std::ofstream(before[1].path / "manifest.json") << "{}";
  const auto found = list_checkpoints(folder_.path());
  ASSERT_EQ(found.size(), 2);
  EXPECT_EQ(found[0].state, State::unfinished);
  EXPECT_EQ(found[1].state, State::damaged);
  EXPECT_NE(found[1].problem.find("manifest.json"), std::string::npos);
}

TEST_F(CheckpointListingTest, PassesOverOtherPeoplesFiles) {
  save(folder_.path(), 1, one_);
  for (const char* name : {"notes", "step-1", "step-00000001.bak", "step-abc"})
    fs::create_directory(checkpoints() / name);
  EXPECT_EQ(list_checkpoints(folder_.path()).size(), 1);
}

TEST(CheckpointListing, SizesAreInPowersOf1000) {
  EXPECT_EQ(size_text(0), "0 B");
  EXPECT_EQ(size_text(999), "999 B");
  EXPECT_EQ(size_text(1000), "1.0 kB");
  EXPECT_EQ(size_text(999'999), "1.0 MB");
  EXPECT_EQ(size_text(1'234'567'890), "1.2 GB");
}

TEST(CheckpointListing, WritersAreReadFromTheLayoutWhereItTells) {
  EXPECT_EQ(writers_text(Json::object().set("ranks", 4).set("expert_parallel", 2)), "ranks 4, EP 2");
  EXPECT_EQ(writers_text(Json::object().set("ranks", "many").set("expert_parallel", 2)), "EP 2");
  EXPECT_EQ(writers_text(Json()), "");
}

}  // namespace
}  // namespace vitrail
