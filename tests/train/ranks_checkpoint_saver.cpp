// Checkpoints that several ranks save in the background, while they go on with each other.
#include <set>
#include <thread>

#include <gtest/gtest.h>

#include "tests/ranks_main.hpp"
#include "tests/train/checkpoint_samples.hpp"
#include "tests/train/file_size_limit.hpp"
#include "train/checkpoint_saver.hpp"

namespace vitrail {
namespace {

using testing::failure_of;
using testing::holds;
using testing::Sample;
using testing::sample_info;
using testing::saved;
using testing::TemporaryFolder;
using Names = std::vector<std::string>;

class CheckpointSaverRanks : public ::testing::Test {
 protected:
  CheckpointSaverRanks() {
    if (world_.rank() == 0) folder_ = std::make_unique<TemporaryFolder>();
    run_dir_ = world_.all_gather_strings(folder_ ? folder_->path().string() : "")[0];
  }
  // No rank may still be looking when rank 0 removes the folder.
  ~CheckpointSaverRanks() override { world_.barrier(); }

  [[nodiscard]] std::vector<CheckpointPiece> mine() const { return sample_.pieces(100, world_.rank(), world_.size()); }
  void fill_with(std::uint64_t salt) {
    const Sample other(salt);
    for (std::size_t i = 0; i < sample_.tensors().size(); ++i) {
      const std::vector<std::uint8_t>& bytes = other.tensors()[i].bytes;
      std::copy(bytes.begin(), bytes.end(), sample_.tensors()[i].bytes.begin());
    }
  }
  /// Exchanges of the step loop until this rank's save has ended.
  std::int64_t exchange_while_running(const CheckpointSaver& saver) {
    std::int64_t rounds = 0;
    for (std::int64_t running = 1; running > 0; ++rounds) {
      running = saver.running() ? 1 : 0;
      world_.all_max({&running, 1});
    }
    return rounds;
  }

  Communicator& world_ = test::world();
  std::unique_ptr<Device> device_ = make_cpu_device();
  std::unique_ptr<TemporaryFolder> folder_;
  std::filesystem::path run_dir_;
  Sample sample_;
};

TEST_F(CheckpointSaverRanks, TheRanksGoOnWhileTheirCopiesAreWritten) {
  CheckpointSaver saver(world_, *device_, run_dir_, {.keep_last = 0}, mine());
  for (const std::int64_t step : {1, 2, 3}) {
    fill_with(static_cast<std::uint64_t>(step));
    saver.start(sample_info(step), mine());
    fill_with(99);
    EXPECT_GT(exchange_while_running(saver), 0);
  }
  saver.wait();
  world_.barrier();
  for (const std::int64_t step : {1, 2, 3}) {
    const CheckpointReader reader(run_dir_ / "checkpoints" / text("step-0000000", step));
    EXPECT_TRUE(holds(reader, Sample(static_cast<std::uint64_t>(step)))) << step;
  }
}

TEST_F(CheckpointSaverRanks, AtMostOneSaveIsInFlight) {
  CheckpointSaver saver(world_, *device_, run_dir_, {.keep_last = 0}, mine());
  for (std::int64_t step = 1; step <= 5; ++step) {
    saver.start(sample_info(step), mine());
    EXPECT_GE(saver.take_finished().size(), step > 1 ? 1U : 0U) << step;
  }
  saver.wait();
  const std::vector<SaveTimes> last = saver.take_finished();
  ASSERT_EQ(last.size(), 1U);
  std::int64_t all = 0;
  for (const auto& tensor : sample_.tensors()) all += std::ssize(tensor.bytes);
  EXPECT_EQ(last[0].bytes, all) << "of all ranks together";
  world_.barrier();
  EXPECT_EQ(saved(run_dir_).size(), 6U);
}

TEST_F(CheckpointSaverRanks, SavesHaveACommunicatorOfTheirOwnAlsoWhenCallsAreChecked) {
  const std::unique_ptr<Communicator> checked = make_checked_communicator(world_);
  CheckpointSaver saver(*checked, *device_, run_dir_, {}, mine());
  saver.start(sample_info(4), mine());
  std::int64_t running = 1;
  while (running > 0) {
    running = saver.running() ? 1 : 0;
    checked->all_max({&running, 1});
  }
  saver.wait();
  world_.barrier();
  EXPECT_TRUE(holds(CheckpointReader(run_dir_), sample_));
}

TEST_F(CheckpointSaverRanks, AFailureOnOneRankIsThrownOnAll) {
  CheckpointSaver saver(world_, *device_, run_dir_, {.keep_last = 0}, mine());
  saver.start(sample_info(7), mine());
  saver.wait();
  const Sample before = sample_;
  fill_with(2);
  const int last = world_.size() - 1;
  std::string said;
  {
    std::optional<testing::FileSizeLimit> limit;
    if (world_.rank() == last) limit.emplace(1000);
    saver.start(sample_info(8), mine());
    // At a boundary between steps the ranks learn of it, each perhaps later than another.
    for (std::int64_t failed = 0; failed == 0;) {
      failed = saver.failed() ? 1 : 0;
      world_.all_max({&failed, 1});
    }
    said = failure_of([&] { saver.wait(); });
  }
  const std::vector<std::string> all = world_.all_gather_strings(said);
  EXPECT_EQ(std::set<std::string>(all.begin(), all.end()).size(), 1U) << all.front() << "\n" << all.back();
  EXPECT_NE(said.find(text("the checkpoint of step 8 was not saved: rank ", last, " on ")), std::string::npos) << said;
  EXPECT_EQ(saved(run_dir_), (Names{"latest", "step-00000007"}));
  EXPECT_TRUE(holds(CheckpointReader(run_dir_), before));
  world_.barrier();
  saver.start(sample_info(9), mine());
  saver.wait();
  world_.barrier();
  EXPECT_TRUE(holds(CheckpointReader(run_dir_), sample_));
}

}  // namespace
}  // namespace vitrail
