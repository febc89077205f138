#include <fstream>

#include <gtest/gtest.h>
#include <unistd.h>

#include "apps/new_run.hpp"
#include "tests/errors.hpp"

namespace vitrail {
namespace {

namespace fs = std::filesystem;

class NewRunTest : public ::testing::Test {
 protected:
  NewRunTest() { fs::create_directories(folder_); }
  ~NewRunTest() override { fs::remove_all(folder_); }

  fs::path folder_ = fs::temp_directory_path() / ("vitrail new run " + std::to_string(getpid()));
};

TEST_F(NewRunTest, RefusesWhatIsThere) {
  std::ofstream(folder_ / "file") << "mine";
  fs::create_symlink(folder_ / "nowhere", folder_ / "dangling");
  for (const fs::path& path : {folder_, folder_ / "file", folder_ / "dangling"}) {
    EXPECT_EQ(vitrail::testing::error_of([&] { const NewRun run(path); }).code(), ExitCode::usage) << path;
    EXPECT_TRUE(fs::exists(fs::symlink_status(path)));
  }
}

TEST_F(NewRunTest, TakesAnEmptyFolderAndLeavesItEmptyAfterAFailure) {
  {
    const NewRun run(folder_);
    fs::create_directories(folder_ / "checkpoints");
  }
  EXPECT_TRUE(fs::is_empty(folder_));
}

TEST_F(NewRunTest, LeavesNothingAfterAFailureAndAllThatIsKept) {
  const fs::path path = folder_ / "run";
  {
    const NewRun run(path);
    fs::create_directories(path / "checkpoints");
  }
  EXPECT_FALSE(fs::exists(path));
  {
    NewRun run(path);
    fs::create_directories(path / "checkpoints");
    run.keep();
  }
  EXPECT_TRUE(fs::exists(path / "checkpoints"));
}

}  // namespace
}  // namespace vitrail
