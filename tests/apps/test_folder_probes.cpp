#include <cmath>
#include <fstream>
#include <thread>

#include <gtest/gtest.h>
#include <unistd.h>

#include "apps/folder_probes.hpp"

namespace vitrail {
namespace {

namespace fs = std::filesystem;

class FolderProbesTest : public ::testing::Test {
 protected:
  FolderProbesTest() { fs::create_directories(folder_); }
  ~FolderProbesTest() override { fs::remove_all(folder_); }

  fs::path folder_ = fs::temp_directory_path() / ("vitrail probes " + std::to_string(getpid()));
};

TEST_F(FolderProbesTest, SmallFilesAreReadAsTheyWereWritten) {
  EXPECT_EQ(content_of(folder_ / "x"), std::nullopt);
  ASSERT_TRUE(write_small(folder_ / "x", "one"));
  EXPECT_EQ(content_of(folder_ / "x"), "one");
  EXPECT_FALSE(write_small(folder_ / "nowhere" / "x", "one"));
}

TEST_F(FolderProbesTest, RenamesAreAtomicHere) {
  const fs::path path = folder_ / "x";
  ASSERT_TRUE(write_first_to_be_replaced(path));
  RenamesSeen seen;
  std::thread reader([&] { seen = watch_renames(path); });
  EXPECT_EQ(replace_again_and_again(path), "");
  reader.join();
  EXPECT_GT(seen.reads, 0);
  EXPECT_EQ(seen.torn, 0);
  EXPECT_EQ(seen.missing, 0);
}

TEST_F(FolderProbesTest, AWriterWithoutRenameIsCaught) {
  const fs::path path = folder_ / "x";
  ASSERT_TRUE(write_small(path, "half a file"));
  RenamesSeen seen;
  std::thread reader([&] { seen = watch_renames(path); });
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_EQ(replace_again_and_again(path), "");
  reader.join();
  EXPECT_GT(seen.torn, 0);
}

TEST_F(FolderProbesTest, LocksAreSeenByAnotherProcessWhileTheyAreHeld) {
  for (const LockKind kind : {LockKind::posix, LockKind::flock}) {
    const fs::path path = folder_ / (kind == LockKind::posix ? "posix" : "flock");
    EXPECT_EQ(see_lock_from_a_child(path, kind), LockSeen::refused);  // no such file
    {
      const FileDescriptor lock = take_lock(path, kind);
      ASSERT_TRUE(lock);
      EXPECT_EQ(see_lock_from_a_child(path, kind), LockSeen::held);
    }
    EXPECT_EQ(see_lock_from_a_child(path, kind), LockSeen::free);
  }
}

TEST_F(FolderProbesTest, FilesAreSyncedWrittenAndReadBack) {
  EXPECT_TRUE(sync_time(folder_).has_value());
  EXPECT_FALSE(sync_time(folder_ / "nowhere").has_value());
  const SpeedSeen seen = write_and_read(folder_ / "x", (5 << 20) + 3, 7);
  EXPECT_EQ(seen.problem, "");
  EXPECT_EQ(fs::file_size(folder_ / "x"), (5U << 20) + 3);
  EXPECT_GT(seen.write_s, 0);
  EXPECT_GT(seen.read_s, 0);
  EXPECT_LT(std::abs(seen.ahead_s), 60);
  EXPECT_NE(write_and_read(folder_ / "nowhere" / "x", 10, 7).problem, "");
}

}  // namespace
}  // namespace vitrail
