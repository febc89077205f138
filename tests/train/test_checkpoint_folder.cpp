#include <functional>

#include <gtest/gtest.h>
#include <unistd.h>

#include "tests/train/checkpoint_samples.hpp"
#include "tests/train/kill_at_calls.hpp"
#include "tests/train/thread_ranks.hpp"
#include "train/checkpoint_folder.hpp"
#include "train/checkpoint_stream.hpp"

namespace vitrail {
namespace {

namespace fs = std::filesystem;
using testing::content_of;
using testing::Ending;
using testing::failure_of;
using testing::holds;
using testing::replace_content;
using testing::Sample;
using testing::save;
using testing::saved;
using testing::TemporaryFolder;
using Names = std::vector<std::string>;

class CheckpointFolderTest : public ::testing::Test {
 protected:
  [[nodiscard]] const fs::path& run_dir() const { return folder_.path(); }
  [[nodiscard]] fs::path checkpoints() const { return run_dir() / "checkpoints"; }
  [[nodiscard]] std::string latest() const {
    const auto found = latest_checkpoint(run_dir());
    return found ? found->filename().string() : "none";
  }

  TemporaryFolder folder_;
  const Sample one_{1};
  const Sample two_{2};
};

TEST_F(CheckpointFolderTest, NamesStepsSoThatTheySort) { EXPECT_EQ(step_name(420), "step-00000420"); }

TEST_F(CheckpointFolderTest, ARunWithoutCheckpointsHasNoLatest) {
  EXPECT_EQ(latest(), "none");
  fs::create_directories(checkpoints() / "step-00000001");  // no manifest
  fs::create_directories(checkpoints() / "step-00000002.tmp");
  replace_content(checkpoints() / "step-00000002.tmp" / "manifest.json", "{}");
  EXPECT_EQ(latest(), "none");
}

TEST_F(CheckpointFolderTest, TheLastSavedIsTheLatest) {
  save(run_dir(), 10, one_);
  EXPECT_EQ(latest(), "step-00000010");
  save(run_dir(), 20, two_);
  EXPECT_EQ(latest(), "step-00000020");
  // Going on from an older step: what was saved last counts, not the largest number.
  save(run_dir(), 15, one_);
  EXPECT_EQ(latest(), "step-00000015");
  EXPECT_EQ(content_of(checkpoints() / "latest"), "step-00000015\n");
  EXPECT_EQ(saved(run_dir()), (Names{"latest", "step-00000010", "step-00000015", "step-00000020"}));
}

TEST_F(CheckpointFolderTest, WithoutAUsableLatestTheNewestCompleteOneCounts) {
  save(run_dir(), 10, one_);
  save(run_dir(), 20, two_);
  fs::remove(checkpoints() / "latest");
  EXPECT_EQ(latest(), "step-00000020");
  for (const char* content : {"", "step-00000099\n", "../../etc\n", "step-x", "step-00000010.tmp"}) {
    replace_content(checkpoints() / "latest", content);
    EXPECT_EQ(latest(), "step-00000020") << content;
  }
  fs::remove(checkpoints() / "step-00000020" / "manifest.json");
  EXPECT_EQ(latest(), "step-00000010");
}

TEST_F(CheckpointFolderTest, KeepsTheNewestAndNeverRemovesTheLatest) {
  for (const std::int64_t step : {10, 20, 30, 40}) save(run_dir(), step, one_, 2);
  EXPECT_EQ(saved(run_dir()), (Names{"latest", "step-00000030", "step-00000040"}));
  save(run_dir(), 5, two_, 2);
  EXPECT_EQ(saved(run_dir()), (Names{"latest", "step-00000005", "step-00000030", "step-00000040"}));
  save(run_dir(), 50, two_, 1);
  EXPECT_EQ(saved(run_dir()), (Names{"latest", "step-00000050"}));
}

TEST_F(CheckpointFolderTest, PruningLeavesOtherPeoplesFilesAlone) {
  save(run_dir(), 10, one_);
  for (const char* name : {"step-00000001-best", "best", "step-3", "step-00000002.backup"}) {
    fs::create_directories(checkpoints() / name);
    replace_content(checkpoints() / name / "manifest.json", "{}");
  }
  save(run_dir(), 20, one_, 1);
  EXPECT_EQ(saved(run_dir()),
            (Names{"best", "latest", "step-00000001-best", "step-00000002.backup", "step-00000020", "step-3"}));
}

TEST_F(CheckpointFolderTest, TheSameStepIsReplaced) {
  save(run_dir(), 10, one_);
  save(run_dir(), 10, two_);
  EXPECT_TRUE(holds(CheckpointReader(run_dir()), two_));
  EXPECT_EQ(saved(run_dir()), (Names{"latest", "step-00000010"}));
}

TEST_F(CheckpointFolderTest, TheRestOfACrashedSaveIsRemovedByTheNext) {
  for (const char* name : {"step-00000010.tmp", "step-00000099.tmp"}) {
    fs::create_directories(checkpoints() / name);
    replace_content(checkpoints() / name / "part-00000-of-00001.h5", "half");
  }
  save(run_dir(), 10, one_);
  EXPECT_EQ(saved(run_dir()), (Names{"latest", "step-00000010"}));
}

TEST_F(CheckpointFolderTest, ACheckpointThatWasBeingReplacedIsStillThere) {
  save(run_dir(), 10, one_);
  fs::rename(checkpoints() / "step-00000010", checkpoints() / "step-00000010.old");
  EXPECT_TRUE(holds(CheckpointReader(run_dir()), one_));
  save(run_dir(), 20, two_);
  EXPECT_EQ(saved(run_dir()), (Names{"latest", "step-00000010", "step-00000020"}));
}

TEST_F(CheckpointFolderTest, AFolderThatCannotBeMadeIsAnError) {
  replace_content(checkpoints(), "a file in the way");
  const std::string said = failure_of([&] { save(run_dir(), 10, one_); });
  EXPECT_NE(said.find(checkpoints().string()), std::string::npos) << said;
  EXPECT_EQ(content_of(checkpoints()), "a file in the way");
}

TEST_F(CheckpointFolderTest, EveryNthStaysForGood) {
  for (const std::int64_t step : {10, 20, 30, 40, 50, 55})
    save(run_dir(), step, one_, {.keep_last = 1, .keep_every = 20});
  EXPECT_EQ(saved(run_dir()), (Names{"latest", "step-00000020", "step-00000040", "step-00000055"}));
}

TEST_F(CheckpointFolderTest, ListsWhatIsCompleteTheLatestFirst) {
  EXPECT_TRUE(complete_checkpoints(run_dir()).empty());
  for (const std::int64_t step : {10, 30, 20}) save(run_dir(), step, one_);
  fs::create_directories(checkpoints() / "step-00000040");  // no manifest
  fs::rename(checkpoints() / "step-00000010", checkpoints() / "step-00000010.old");
  Names names;
  for (const fs::path& path : complete_checkpoints(run_dir())) names.push_back(path.filename().string());
  EXPECT_EQ(names, (Names{"step-00000020", "step-00000030", "step-00000010.old"}));
}

/// Not root while it lives: whom no permission stops.
class Nobody {
 public:
  Nobody() { was_root_ = ::geteuid() == 0 && ::seteuid(65534) == 0; }
  Nobody(const Nobody&) = delete;
  Nobody& operator=(const Nobody&) = delete;
  ~Nobody() {
    if (was_root_) (void)!::seteuid(0);
  }

 private:
  bool was_root_ = false;
};

TEST_F(CheckpointFolderTest, AFolderThatCannotBeWrittenIsAnErrorAndThePreviousOneStays) {
  save(run_dir(), 10, one_);
  constexpr fs::perms readable{0555};
  fs::permissions(run_dir(), readable);
  fs::permissions(checkpoints(), readable);
  {
    const Nobody nobody;
    const std::string said = failure_of([&] { save(run_dir(), 20, two_); });
    EXPECT_NE(said.find("step-00000020.tmp"), std::string::npos) << said;
    EXPECT_NE(said.find("Permission denied"), std::string::npos) << said;
  }
  EXPECT_TRUE(holds(CheckpointReader(run_dir()), one_));
  fs::permissions(run_dir(), fs::perms::owner_all);
  fs::permissions(checkpoints(), fs::perms::owner_all);
  EXPECT_EQ(saved(run_dir()), (Names{"latest", "step-00000010"}));
  save(run_dir(), 20, two_);
  EXPECT_TRUE(holds(CheckpointReader(run_dir()), two_));
}

/// How the save that is killed is made.
using Saving = std::function<void(const fs::path& run_dir, std::int64_t step, const Sample& sample)>;

/// Kills a save of `step` at every call that changes files (or every `stride`-th), and looks at what is left each time.
void kill_everywhere(std::int64_t step, const Saving& saving, int stride = 1) {
  const Sample before(1);
  const Sample after(2);
  const Sample next(3);
  int killed = 0;
  for (Ending ending = Ending::killed; ending == Ending::killed; killed += stride) {
    const TemporaryFolder folder;
    save(folder.path(), 5, before);
    save(folder.path(), 10, before);
    ending = testing::run_and_kill_at(killed, [&] { saving(folder.path(), step, after); });
    if (ending == Ending::cannot_trace) GTEST_SKIP() << "this machine does not let a process trace its child";
    ASSERT_NE(ending, Ending::failed);
    SCOPED_TRACE(text("killed at call ", killed));
    const CheckpointReader reader(folder.path());
    const bool is_new = holds(reader, after);
    EXPECT_TRUE(is_new ? reader.info().step == step : reader.info().step == 10 && holds(reader, before));
    EXPECT_TRUE(is_new || ending == Ending::killed);
    save(folder.path(), 30, next, 1);
    EXPECT_TRUE(holds(CheckpointReader(folder.path()), next));
    std::vector<std::string> left = saved(folder.path());
    EXPECT_EQ(left, (Names{"latest", "step-00000030"}));
  }
  EXPECT_GT(killed, 20);  // else it was not killed where it matters
}

TEST_F(CheckpointFolderTest, ASaveKilledAtAnyCallLeavesACompleteCheckpoint) {
  kill_everywhere(20, [](const fs::path& run, std::int64_t step, const Sample& sample) { save(run, step, sample, 1); });
}

TEST_F(CheckpointFolderTest, AReplacingSaveKilledAtAnyCallLeavesACompleteCheckpoint) {
  kill_everywhere(10, [](const fs::path& run, std::int64_t step, const Sample& sample) { save(run, step, sample, 0); });
}

TEST_F(CheckpointFolderTest, ASaveOfRanksThatShareAFileKilledAtAnyCallLeavesACompleteCheckpoint) {
  kill_everywhere(
      20,
      [](const fs::path& run, std::int64_t step, const Sample& sample) {
        testing::ThreadRanks(3).run([&](Communicator& ranks) {
          save_checkpoint(ranks, run, testing::sample_info(step), sample.pieces(400, ranks.rank(), ranks.size()),
                          {.keep_last = 1, .writers = 2});
        });
      },
      2);
}

TEST_F(CheckpointFolderTest, AStreamKilledAtAnyCallLeavesACompleteCheckpoint) {
  kill_everywhere(
      20,
      [](const fs::path& run, std::int64_t step, const Sample& sample) {
        CheckpointStream stream(run, testing::sample_info(step));
        for (const testing::SampleTensor& tensor : sample.tensors()) {
          stream.begin(tensor.name, tensor.shape, tensor.dtype);
          stream.write(tensor.range(0, tensor.shape.elements()));
        }
        stream.finish();
      },
      3);
}

}  // namespace
}  // namespace vitrail
