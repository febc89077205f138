#include <chrono>
#include <cstring>
#include <future>
#include <thread>
#include <utility>

#include <gtest/gtest.h>

#include "tests/errors.hpp"
#include "tests/train/checkpoint_samples.hpp"
#include "train/checkpoint_saver.hpp"

namespace vitrail {
namespace {

namespace fs = std::filesystem;
using testing::error_of;
using testing::failure_of;
using testing::holds;
using testing::Sample;
using testing::sample_info;
using testing::saved;
using testing::TemporaryFolder;
using Names = std::vector<std::string>;

/// Another sample's bytes in the place of these.
void overwrite(Sample& sample, const Sample& other) {
  for (std::size_t i = 0; i < sample.tensors().size(); ++i) {
    std::vector<std::uint8_t>& bytes = sample.tensors()[i].bytes;
    std::copy(other.tensors()[i].bytes.begin(), other.tensors()[i].bytes.end(), bytes.begin());
  }
}

std::int64_t bytes_of(const Sample& sample) {
  std::int64_t bytes = 0;
  for (const auto& tensor : sample.tensors()) bytes += std::ssize(tensor.bytes);
  return bytes;
}

class CheckpointSavers : public ::testing::Test {
 protected:
  CheckpointSaver saver(double patience_s = 10) {
    return {*world_, *device_, folder_.path(), {.keep_last = 0}, sample_.pieces(100), patience_s};
  }
  void start(CheckpointSaver& with, std::int64_t step) { with.start(sample_info(step), sample_.pieces(100)); }

  TemporaryFolder folder_;
  std::unique_ptr<Communicator> world_ = make_self_communicator();
  std::unique_ptr<Device> device_ = make_cpu_device();
  Sample sample_;
};

TEST_F(CheckpointSavers, SavesWhatWasThereWhenItStarted) {
  CheckpointSaver mine = saver();
  const Sample before;
  start(mine, 7);
  overwrite(sample_, Sample(2));
  mine.wait();
  const CheckpointReader reader(folder_.path());
  EXPECT_EQ(reader.info().step, 7);
  EXPECT_EQ(reader.info().config, sample_info(7).config);
  EXPECT_TRUE(holds(reader, before));
  EXPECT_FALSE(holds(reader, sample_));
}

TEST_F(CheckpointSavers, KeepsOneSaveInFlight) {
  CheckpointSaver mine = saver();
  for (const std::int64_t step : {1, 2, 3}) {
    overwrite(sample_, Sample(static_cast<std::uint64_t>(step)));
    start(mine, step);
    const fs::path before = folder_.path() / "checkpoints" / text("step-0000000", step - 1);
    EXPECT_TRUE(step == 1 || fs::exists(before)) << "save " << step << " did not wait for the one before";
  }
  mine.wait();
  EXPECT_EQ(saved(folder_.path()), (Names{"latest", "step-00000001", "step-00000002", "step-00000003"}));
  for (const std::int64_t step : {1, 2, 3}) {
    const CheckpointReader reader(folder_.path() / "checkpoints" / text("step-0000000", step));
    EXPECT_TRUE(holds(reader, Sample(static_cast<std::uint64_t>(step)))) << step;
  }
}

TEST_F(CheckpointSavers, TellsBytesAndTimesOfEverySaveOnce) {
  CheckpointSaver mine = saver();
  EXPECT_TRUE(mine.take_finished().empty());
  start(mine, 1);
  start(mine, 2);
  mine.wait();
  EXPECT_FALSE(mine.running());
  const std::vector<SaveTimes> all = mine.take_finished();
  ASSERT_EQ(all.size(), 2U);
  for (std::size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(all[i].step, static_cast<std::int64_t>(i) + 1);
    EXPECT_EQ(all[i].bytes, bytes_of(sample_));
    EXPECT_GT(all[i].seconds, 0);
    EXPECT_GT(all[i].copy_s, 0);
    EXPECT_NEAR(all[i].bytes_per_s(), static_cast<double>(all[i].bytes) / all[i].seconds, 1);
  }
  EXPECT_GT(all[0].stall_s, 0);
  EXPECT_LT(all[0].stall_s, all[0].seconds) << "the wait of the second save was counted for the first";
  // The second waited for the first to end, and was waited for at once.
  EXPECT_GT(all[1].stall_s, all[1].copy_s);
  EXPECT_GT(all[1].stall_s, all[1].seconds);
  EXPECT_TRUE(mine.take_finished().empty());
}

TEST_F(CheckpointSavers, AreFoundFinishedWithoutWaiting) {
  CheckpointSaver mine = saver();
  start(mine, 1);
  while (mine.running()) std::this_thread::yield();
  EXPECT_EQ(mine.take_finished().size(), 1U);
}

TEST_F(CheckpointSavers, FailOnceAndSaveAgain) {
  CheckpointSaver mine = saver();
  const fs::path checkpoints = folder_.path() / "checkpoints";
  testing::replace_content(checkpoints, "a file in the way");
  start(mine, 1);
  while (mine.running()) std::this_thread::yield();
  EXPECT_TRUE(mine.failed());
  EXPECT_TRUE(mine.take_finished().empty());
  EXPECT_NE(failure_of([&] { mine.wait(); }).find("the checkpoint of step 1 was not saved"), std::string::npos);
  EXPECT_FALSE(mine.failed());
  mine.wait();
  start(mine, 2);
  EXPECT_NE(failure_of([&] { start(mine, 3); }).find("the checkpoint of step 2 was not saved"), std::string::npos);
  fs::remove(checkpoints);
  start(mine, 4);
  mine.wait();
  EXPECT_TRUE(holds(CheckpointReader(folder_.path()), sample_));
}

TEST_F(CheckpointSavers, RefusePiecesThatTheBufferWasNotMadeFor) {
  CheckpointSaver mine = saver();
  EXPECT_EQ(error_of([&] { mine.start(sample_info(1), sample_.pieces(50)); }).code(), ExitCode::other);
  std::vector<CheckpointPiece> pieces = sample_.pieces(100);
  std::swap(pieces.front(), pieces.back());
  EXPECT_EQ(error_of([&] { mine.start(sample_info(1), pieces); }).code(), ExitCode::other);
  EXPECT_FALSE(fs::exists(folder_.path() / "checkpoints"));
}

TEST_F(CheckpointSavers, HaveAsMuchMemoryAsThePieces) {
  EXPECT_GE(saver().buffer_bytes(), bytes_of(sample_));
  EXPECT_LT(saver().buffer_bytes(), bytes_of(sample_) + 64 * std::ssize(sample_.pieces(100)));
}

TEST_F(CheckpointSavers, LetASaveEndWhenTheyAreDestroyed) {
  {
    CheckpointSaver mine = saver();
    start(mine, 1);
  }
  EXPECT_TRUE(holds(CheckpointReader(folder_.path()), sample_));
}

/// A world in which the other ranks are gone: a collective does not return until the test is over.
class Deserted final : public Communicator {
 public:
  explicit Deserted(std::shared_future<void> over) : over_(std::move(over)) {}
  [[nodiscard]] int rank() const noexcept override { return 0; }
  [[nodiscard]] int size() const noexcept override { return 2; }
  void barrier() override { over_.wait(); }
  void broadcast(Tensor, int) override { over_.wait(); }
  void all_gather(ConstTensor, Tensor) override { over_.wait(); }
  void start_all_to_all(ConstTensor, Tensor) override { over_.wait(); }
  void finish_all_to_all() override {}
  void all_min(std::span<std::int64_t>) override { give_up(); }
  void all_max(std::span<std::int64_t>) override { give_up(); }
  void all_sum(std::span<std::int64_t>) override { give_up(); }
  std::unique_ptr<Communicator> split(int) override { return std::make_unique<Deserted>(over_); }

 private:
  void give_up() const {
    over_.wait();
    fail(ExitCode::other, {"the test is over", "", ""});
  }
  std::shared_future<void> over_;
};

TEST_F(CheckpointSavers, DoNotWaitForRanksThatAreGone) {
  std::promise<void> over;
  Deserted world(over.get_future().share());
  const Stopwatch clock;
  {
    CheckpointSaver mine(world, *device_, folder_.path(), {}, sample_.pieces(100), 0.05);
    start(mine, 1);
  }
  EXPECT_LT(clock.seconds(), 30);
  over.set_value();  // its thread ends by itself, on memory that nobody has freed
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
}

/// A device that downloads only when somebody waits for it, as late as a queue may.
class LateDevice final : public Device {
 public:
  [[nodiscard]] DeviceKind kind() const noexcept override { return DeviceKind::cuda; }
  [[nodiscard]] std::string description() const override { return "late"; }
  void* allocate(std::int64_t bytes) override { return cpu_->allocate(bytes); }
  void release(void* memory, std::int64_t bytes) noexcept override { cpu_->release(memory, bytes); }
  void* allocate_host(std::int64_t bytes) override { return cpu_->allocate_host(bytes); }
  void release_host(void* memory, std::int64_t bytes) noexcept override { cpu_->release_host(memory, bytes); }
  void copy(ConstTensor, Tensor) override { fail(ExitCode::other, {"not used", "", ""}); }
  void zero(Tensor) override {}
  [[nodiscard]] Place place() override { return 1; }
  void wait(Place) override {
    for (const auto& [from, to] : downloads_) std::memcpy(to.data, from.data, static_cast<std::size_t>(to.bytes()));
    downloads_.clear();
  }
  void upload(ConstTensor, Tensor, Place) override {}
  void download(ConstTensor from, Tensor to) override { downloads_.emplace_back(from, to); }
  void submit(const std::string&, const std::function<void()>& work) override { work(); }
  [[nodiscard]] bool asynchronous() const noexcept override { return true; }

 private:
  std::unique_ptr<Device> cpu_ = make_cpu_device();
  std::vector<std::pair<ConstTensor, Tensor>> downloads_;
};

TEST_F(CheckpointSavers, DownloadWhatADeviceHolds) {
  LateDevice device;
  const auto pieces = [&] {
    std::vector<CheckpointPiece> all = sample_.pieces(100);
    for (std::size_t i = 0; i < all.size(); i += 2) {
      all[i].data.device = DeviceKind::cuda;
      all[i].device = &device;
    }
    return all;
  };
  const Sample before;
  CheckpointSaver mine(*world_, device, folder_.path(), {}, pieces());
  mine.start(sample_info(7), pieces());
  overwrite(sample_, Sample(2));
  mine.wait();
  EXPECT_TRUE(holds(CheckpointReader(folder_.path()), before));
}

}  // namespace
}  // namespace vitrail
