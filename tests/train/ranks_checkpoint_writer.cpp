// Checkpoints that several ranks write together, and what they say when one of them cannot.
#include <algorithm>
#include <set>
#include <thread>

#include <gtest/gtest.h>

#include "tests/ranks_main.hpp"
#include "tests/train/checkpoint_samples.hpp"
#include "tests/train/file_size_limit.hpp"
#include "train/checkpoint_manifest.hpp"
#include "train/checkpoint_part.hpp"

namespace vitrail {
namespace {

namespace fs = std::filesystem;
using testing::failure_of;
using testing::holds;
using testing::Sample;
using testing::sample_info;
using testing::saved;
using testing::TemporaryFolder;
using Names = std::vector<std::string>;

class CheckpointWriterRanks : public ::testing::Test {
 protected:
  CheckpointWriterRanks() {
    if (world_.rank() == 0) folder_ = std::make_unique<TemporaryFolder>();
    run_dir_ = world_.all_gather_strings(folder_ ? folder_->path().string() : "")[0];
  }
  // No rank may still be looking when rank 0 removes the folder.
  ~CheckpointWriterRanks() override { world_.barrier(); }

  SaveReport save(std::int64_t step, const std::vector<CheckpointPiece>& pieces, const SaveOptions& options = {0}) {
    return save_checkpoint(world_, run_dir_, sample_info(step), pieces, options);
  }
  SaveReport save_dealt(std::int64_t step, std::int64_t run, int dealer = 0, int writers = 0) {
    return save(step, sample_.pieces(run, world_.rank(), world_.size(), dealer), {.keep_last = 0, .writers = writers});
  }
  /// All ranks must fail with the same words.
  template <class Work>
  std::string failure_of_all(Work work) {
    std::string said = failure_of(work);
    const std::vector<std::string> all = world_.all_gather_strings(said);
    EXPECT_EQ(std::set<std::string>(all.begin(), all.end()).size(), 1U) << all.front() << "\n" << all.back();
    return said;
  }
  static bool says(const std::string& message, const std::string& words) {
    return message.find(words) != std::string::npos;
  }

  Communicator& world_ = test::world();
  int last_ = world_.size() - 1;
  std::unique_ptr<TemporaryFolder> folder_;
  fs::path run_dir_;
  Sample sample_;
};

TEST_F(CheckpointWriterRanks, EveryLayoutReadsWhatAnyLayoutWrote) {
  for (const std::int64_t run : {1 << 20, 100, 9}) {
    save_dealt(7, run, static_cast<int>(run) % world_.size());
    EXPECT_TRUE(holds(CheckpointReader(run_dir_), sample_)) << run;
    world_.barrier();
  }
}

TEST_F(CheckpointWriterRanks, TheDigestIsThatOfOneRank) {
  const TemporaryFolder alone;
  testing::save(alone.path(), 7, sample_);
  const std::string digest = CheckpointReader(alone.path()).digest();
  for (const std::int64_t run : {100, 31}) {
    save_dealt(7, run);
    EXPECT_EQ(CheckpointReader(run_dir_).digest(), digest);
    world_.barrier();
  }
}

TEST_F(CheckpointWriterRanks, EveryRankWithPiecesWritesOneFile) {
  save_dealt(7, 9);
  EXPECT_EQ(read_manifest(CheckpointReader(run_dir_).path()).files.size(), static_cast<std::size_t>(world_.size()));
}

TEST_F(CheckpointWriterRanks, ConsecutiveRanksShareAFileWhenThereAreFewerWriters) {
  save_dealt(7, 1 << 20);
  const std::string digest = CheckpointReader(run_dir_).digest();
  for (int writers = 1; writers <= world_.size() + 1; ++writers) {
    save_dealt(7, 9, 0, writers);
    const CheckpointReader reader(run_dir_);
    EXPECT_TRUE(holds(reader, sample_)) << writers;
    EXPECT_EQ(reader.digest(), digest) << writers;
    const std::vector<CheckpointFile> files = read_manifest(reader.path()).files;
    const int expected = std::min(writers, world_.size());
    ASSERT_EQ(files.size(), static_cast<std::size_t>(expected));
    for (int i = 0; i < expected; ++i) EXPECT_EQ(files[static_cast<std::size_t>(i)].name, part_name(i, expected));
    world_.barrier();
  }
}

TEST_F(CheckpointWriterRanks, AWriterWithoutPiecesLeavesTheFileToTheOthers) {
  for (int idle = 0; idle < world_.size(); ++idle) {
    const bool alone = world_.size() == 1;
    std::vector<CheckpointPiece> pieces;
    const int rank = world_.rank() > idle ? world_.rank() - 1 : world_.rank();
    if (alone || world_.rank() != idle) pieces = sample_.pieces(100, rank, std::max(1, world_.size() - 1));
    save(7, pieces, {.keep_last = 0, .writers = 1});
    const CheckpointReader reader(run_dir_);
    EXPECT_TRUE(holds(reader, sample_)) << idle;
    EXPECT_EQ(read_manifest(reader.path()).files.size(), 1U);
    world_.barrier();
  }
}

TEST_F(CheckpointWriterRanks, EveryByteOfASharedFileHasItsChecksum) {
  save_dealt(7, 100, 0, 1);
  if (world_.rank() == 0) {
    const CheckpointReader reader(run_dir_);
    const fs::path part = reader.path() / part_name(0, 1);
    const std::string content = testing::content_of(part);
    for (std::size_t at = 0; at < content.size(); at += 97) {
      std::string changed = content;
      changed[at] = static_cast<char>(changed[at] ^ 2);
      testing::replace_content(part, changed);
      EXPECT_EQ(reader.verify().size(), 1U) << at;
    }
  }
}

TEST_F(CheckpointWriterRanks, ReportsTheBytesOfAllRanksTensors) {
  std::int64_t bytes = 0;
  for (const testing::SampleTensor& tensor : sample_.tensors()) bytes += static_cast<std::int64_t>(tensor.bytes.size());
  const SaveReport report = save_dealt(7, 100);
  EXPECT_EQ(report.bytes, bytes);
  EXPECT_GT(report.seconds, 0);
}

TEST_F(CheckpointWriterRanks, AFullDiskInAnyTurnLeavesThePreviousOne) {
  save_dealt(7, 100);
  const Sample other(2);
  for (int broken = 0; broken < world_.size(); ++broken) {
    const std::string said = failure_of_all([&] {
      std::optional<testing::FileSizeLimit> limit;
      if (world_.rank() == broken) limit.emplace(1000);
      save(8, other.pieces(100, world_.rank(), world_.size()), {.keep_last = 1, .writers = 1});
    });
    EXPECT_TRUE(says(said, text("the checkpoint of step 8 was not saved: rank ", broken, " on "))) << said;
    EXPECT_EQ(saved(run_dir_), (Names{"latest", "step-00000007"}));
    EXPECT_TRUE(holds(CheckpointReader(run_dir_), sample_));
    world_.barrier();
  }
}

TEST_F(CheckpointWriterRanks, SavesInAThreadOfItsOwn) {
  const std::unique_ptr<Communicator> own = world_.split(0);
  for (int writers = 0; writers < 2; ++writers) {
    const std::vector<CheckpointPiece> pieces = sample_.pieces(100, world_.rank(), world_.size());
    std::thread saver([&] { save_checkpoint(*own, run_dir_, sample_info(7), pieces, {.writers = writers}); });
    const TemporaryFolder elsewhere;
    for (int i = 0; i < 20; ++i) {
      testing::save(elsewhere.path(), i, sample_, 1);
      world_.barrier();
    }
    saver.join();
    world_.barrier();
    EXPECT_TRUE(holds(CheckpointReader(run_dir_), sample_));
    world_.barrier();
  }
}

TEST_F(CheckpointWriterRanks, ARankWithoutPiecesWritesNoFile) {
  save(7, world_.rank() == last_ ? sample_.pieces(100) : std::vector<CheckpointPiece>());
  const CheckpointReader reader(run_dir_);
  EXPECT_TRUE(holds(reader, sample_));
  const CheckpointManifest manifest = read_manifest(reader.path());
  ASSERT_EQ(manifest.files.size(), 1U);
  EXPECT_EQ(manifest.files[0].name, text("part-0000", last_, "-of-0000", world_.size(), ".h5"));
}

TEST_F(CheckpointWriterRanks, KeepsTheNewest) {
  for (const std::int64_t step : {1, 2, 3, 4})
    save(step, sample_.pieces(100, world_.rank(), world_.size()), {.keep_last = 2});
  world_.barrier();  // removing comes after the others have gone on
  EXPECT_EQ(saved(run_dir_), (Names{"latest", "step-00000003", "step-00000004"}));
}

TEST_F(CheckpointWriterRanks, AFullDiskOnOneRankFailsAllAndLeavesThePreviousOne) {
  save_dealt(7, 100);
  const Sample other(2);
  for (const std::int64_t step : {7, 8}) {
    const std::string said = failure_of_all([&] {
      std::optional<testing::FileSizeLimit> limit;
      if (world_.rank() == last_) limit.emplace(1000);
      save_checkpoint(world_, run_dir_, sample_info(step), other.pieces(100, world_.rank(), world_.size()), {1});
    });
    EXPECT_TRUE(says(said, text("the checkpoint of step ", step, " was not saved: rank ", last_, " on "))) << said;
    EXPECT_TRUE(says(said, "File too large")) << said;
    EXPECT_EQ(saved(run_dir_), (Names{"latest", "step-00000007"}));
    const CheckpointReader reader(run_dir_);
    EXPECT_EQ(reader.info().step, 7);
    EXPECT_TRUE(holds(reader, sample_));
    world_.barrier();
  }
  save_dealt(8, 100);
  EXPECT_EQ(CheckpointReader(run_dir_).info().step, 8);
}

TEST_F(CheckpointWriterRanks, AFullDiskAtAnySizeLeavesThePreviousOne) {
  save_dealt(7, 100);
  const Sample other(2);
  int failed = 0;
  for (rlim_t bytes = 0;; bytes = bytes * 3 / 2 + 16) {
    std::int64_t ok = 1;
    try {
      const testing::FileSizeLimit limit(bytes);
      save_checkpoint(world_, run_dir_, sample_info(8), other.pieces(100, world_.rank(), world_.size()), {0});
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::checkpoint) << error.what();
      ok = 0;
    }
    if (ok == 1) break;
    ++failed;
    ASSERT_LT(failed, 40);
    EXPECT_EQ(saved(run_dir_), (Names{"latest", "step-00000007"})) << bytes;
    EXPECT_TRUE(holds(CheckpointReader(run_dir_), sample_)) << bytes;
    world_.barrier();
  }
  EXPECT_GT(failed, 5);
  EXPECT_TRUE(holds(CheckpointReader(run_dir_), other));
}

TEST_F(CheckpointWriterRanks, TellsWhatTheRanksForgotBeforeAnythingIsWritten) {
  save_dealt(7, 100);
  const std::string said = failure_of_all([&] {
    std::vector<CheckpointPiece> pieces = sample_.pieces(100, world_.rank(), world_.size());
    std::erase_if(pieces,
                  [](const CheckpointPiece& p) { return p.tensor == "moments/block/kernel" && p.first == 200; });
    save(8, pieces);
  });
  EXPECT_TRUE(says(said, "elements 200 to 299 of tensor 'moments/block/kernel' are in no piece")) << said;
  EXPECT_EQ(saved(run_dir_), (Names{"latest", "step-00000007"}));
}

TEST_F(CheckpointWriterRanks, RefusesElementsThatTwoRanksWrite) {
  if (world_.size() == 1) GTEST_SKIP() << "needs two ranks";
  const std::string said = failure_of_all([&] { save(8, sample_.pieces()); });
  EXPECT_TRUE(says(said, "are in two pieces")) << said;
}

TEST_F(CheckpointWriterRanks, RefusesATensorOfTwoShapes) {
  if (world_.size() == 1) GTEST_SKIP() << "needs two ranks";
  const std::string said = failure_of_all([&] {
    Sample mine;
    if (world_.rank() == 1) mine.tensors()[0].shape = {33, 7};
    save(8, mine.pieces(100, world_.rank(), world_.size()));
  });
  EXPECT_TRUE(says(said, "'parameters/block/kernel' is f32 [7, 33] in one piece and f32 [33, 7] in another")) << said;
}

TEST_F(CheckpointWriterRanks, NamesTheRankWithAnImpossiblePiece) {
  const std::string said = failure_of_all([&] {
    std::vector<CheckpointPiece> pieces = sample_.pieces(100, world_.rank(), world_.size());
    if (world_.rank() == last_) pieces.back().first = 1000;
    save(8, pieces);
  });
  EXPECT_TRUE(says(said, text("rank ", last_, " on "))) << said;
  EXPECT_TRUE(says(said, "lies outside the tensor")) << said;
}

TEST_F(CheckpointWriterRanks, RefusesDifferentStepsOnDifferentRanks) {
  if (world_.size() == 1) GTEST_SKIP() << "needs two ranks";
  const std::string said = failure_of_all([&] { save_dealt(7 + world_.rank(), 100); });
  EXPECT_TRUE(says(said, "ranks save different steps")) << said;
}

}  // namespace
}  // namespace vitrail
