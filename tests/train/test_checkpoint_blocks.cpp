#include <gtest/gtest.h>

#include "tests/train/checkpoint_samples.hpp"
#include "train/checkpoint_blocks.hpp"

namespace vitrail {
namespace {

const std::string kContent = "abcdefghijklmnopqrstuvwxyz0123456789";

/// kContent in a file of its own.
class CheckpointBlocks : public ::testing::Test {
 protected:
  CheckpointBlocks() { testing::replace_content(path_, kContent); }
  [[nodiscard]] FileBytes file() const { return {path_, ExitCode::checkpoint}; }

  testing::TemporaryFolder folder_;
  std::filesystem::path path_ = folder_.path() / "file";
};

const std::byte* bytes_at(std::size_t at) { return reinterpret_cast<const std::byte*>(kContent.data()) + at; }

TEST_F(CheckpointBlocks, SumsDoNotDependOnTheStretches) {
  const std::string wanted = sha256_of("abcdefgh") + sha256_of("ijklmnop") + sha256_of("qrs");
  for (const std::int64_t stretch : {1, 3, 8, 11, 19}) {
    BlockSums sums(8);
    for (std::int64_t at = 0; at < 19; at += stretch) {
      sums.update(bytes_at(static_cast<std::size_t>(at)), std::min(stretch, 19 - at));
    }
    EXPECT_EQ(sums.take(), wanted) << stretch;
    EXPECT_EQ(sums.take(), "");
    sums.update(bytes_at(0), 2);
    EXPECT_EQ(sums.take(), sha256_of("ab"));
  }
}

TEST_F(CheckpointBlocks, WholeBlocksHaveNoEmptyOneBehind) {
  BlockSums sums(4);
  sums.update(bytes_at(0), 8);
  EXPECT_EQ(sums.take(), sha256_of("abcd") + sha256_of("efgh"));
}

TEST_F(CheckpointBlocks, FindsTheFirstDamagedBlockAndCountsAll) {
  const std::string sums = sha256_of("cdefghij") + sha256_of("klmnopqr") + sha256_of("stu");
  EXPECT_FALSE(damaged_blocks(file(), {2, 19}, sums, 8));
  std::string changed = kContent;
  changed[2 + 8] = changed[2 + 18] = '!';
  testing::replace_content(path_, changed);
  const auto damaged = damaged_blocks(file(), {2, 19}, sums, 8);
  ASSERT_TRUE(damaged);
  EXPECT_EQ(damaged->first, 10);
  EXPECT_EQ(damaged->bytes, 8);
  EXPECT_EQ(damaged->blocks, 2);
}

TEST_F(CheckpointBlocks, TheRestIsEverythingOutsideOfTheExtents) {
  EXPECT_EQ(sum_of_rest(file(), {}), sha256_of(kContent));
  EXPECT_EQ(sum_of_rest(file(), {{30, 6}, {2, 3}, {5, 0}, {5, 20}}), sha256_of("abz0123"));
  EXPECT_EQ(sum_of_rest(file(), {{0, 36}}), sha256_of(""));
}

TEST_F(CheckpointBlocks, AFileThatEndsTooEarlyIsAnError) {
  testing::failure_of([&] { return damaged_blocks(file(), {30, 7}, sha256_of("456789?"), 8); });
}

}  // namespace
}  // namespace vitrail
