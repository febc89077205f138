#include <algorithm>
#include <cstring>
#include <deque>
#include <functional>
#include <vector>

#include <gtest/gtest.h>

#include "train/pass_feed.hpp"

namespace vitrail {
namespace {

/// A device whose uploads and copies happen only when something is waited for; its memory is host memory all the same.
class LateDevice final : public Device {
 public:
  [[nodiscard]] DeviceKind kind() const noexcept override { return DeviceKind::cuda; }
  [[nodiscard]] std::string description() const override { return "late"; }
  void* allocate(std::int64_t bytes) override { return host_->allocate(bytes); }
  void release(void* memory, std::int64_t bytes) noexcept override { host_->release(memory, bytes); }
  void* allocate_host(std::int64_t bytes) override { return host_->allocate(bytes); }
  void release_host(void* memory, std::int64_t bytes) noexcept override { host_->release(memory, bytes); }
  void copy(ConstTensor from, Tensor to) override {
    later([=] { std::memcpy(to.data, from.data, static_cast<std::size_t>(from.bytes())); });
  }
  void zero(Tensor tensor) override {
    later([=] { std::memset(tensor.data, 0, static_cast<std::size_t>(tensor.bytes())); });
  }
  [[nodiscard]] Place place() override { return done_ + queue_.size(); }
  void wait(Place place) override {
    while (done_ < place) {
      queue_.front()();
      queue_.pop_front();
      ++done_;
    }
  }
  void upload(ConstTensor from, Tensor to, Place free) override {
    uploads.push_back(free);
    copy(from, to);
  }
  void download(ConstTensor from, Tensor to) override { copy(from, to); }
  void submit(const std::string&, const std::function<void()>& work) override { work(); }
  [[nodiscard]] bool asynchronous() const noexcept override { return true; }

  std::vector<Place> uploads;  ///< where each might begin

 private:
  void later(std::function<void()> work) { queue_.push_back(std::move(work)); }
  std::unique_ptr<Device> host_ = make_cpu_device();
  std::deque<std::function<void()>> queue_;
  Place done_ = 0;
};

class Feeding : public ::testing::Test {
 protected:
  Feeding() {
    acts_.raw_images = arena_.allocate(Dtype::u8, {2, 3});
    acts_.labels = arena_.allocate(Dtype::i32, {2, 1});
    acts_.mix_weights = arena_.allocate(Dtype::f32, {1, 2, 2});
  }
  static void fill(const PassData& to, int value) {
    std::fill_n(to.raw_images.as<std::uint8_t>(), to.raw_images.elements(), static_cast<std::uint8_t>(value));
    std::fill_n(to.labels.as<std::int32_t>(), to.labels.elements(), value);
    std::fill_n(to.mix_weights.as<float>(), to.mix_weights.elements(), static_cast<float>(value));
  }
  /// A pass that reads its data and leaves what it saw in `seen_`.
  void pass(PassFeed& feed, std::size_t number) {
    fill(feed.next(), static_cast<int>(number) + 1);
    feed.send(acts_);
    device_.copy(acts_.labels, seen_[number].labels.view());
    device_.copy(acts_.raw_images, seen_[number].images.view());
    device_.copy(acts_.mix_weights, seen_[number].weights.view());
    feed.used();
  }
  struct Seen {
    HostTensor labels, images, weights;
  };

  LateDevice device_;
  Arena arena_{"test", device_, 1 << 10};
  Activations acts_;
  std::vector<Seen> seen_;
};

TEST_F(Feeding, EveryPassSeesItsOwnDataHoweverLateTheDeviceIs) {
  PassFeed feed(device_, acts_);
  for (int i = 0; i < 6; ++i) {
    seen_.push_back({HostTensor(device_, Dtype::i32, {2, 1}), HostTensor(device_, Dtype::u8, {2, 3}),
                     HostTensor(device_, Dtype::f32, {1, 2, 2})});
  }
  for (std::size_t i = 0; i < 6; ++i) pass(feed, i);
  device_.synchronize();
  for (std::size_t i = 0; i < 6; ++i) {
    EXPECT_EQ(seen_[i].labels.view().as<std::int32_t>()[1], static_cast<std::int32_t>(i + 1));
    EXPECT_EQ(seen_[i].images.view().as<std::uint8_t>()[5], i + 1);
    EXPECT_EQ(seen_[i].weights.view().as<float>()[3], static_cast<float>(i + 1));
  }
}

TEST_F(Feeding, AnUploadWaitsForThePassBeforeTheLastAlone) {
  PassFeed feed(device_, acts_);
  for (int i = 0; i < 3; ++i) {
    seen_.push_back({HostTensor(device_, Dtype::i32, {2, 1}), HostTensor(device_, Dtype::u8, {2, 3}),
                     HostTensor(device_, Dtype::f32, {1, 2, 2})});
  }
  pass(feed, 0);
  const Device::Place first_used = device_.place();
  pass(feed, 1);
  pass(feed, 2);
  ASSERT_EQ(device_.uploads.size(), 9U);
  EXPECT_EQ(device_.uploads.back(), first_used) << "the second pass may still run";
}

TEST_F(Feeding, TheLastTwoPassesCanBeShownAgain) {
  PassFeed feed(device_, acts_);
  for (int i = 0; i < 3; ++i) {
    fill(feed.next(), 10 + i);
    feed.send(acts_);
    feed.used();
  }
  device_.synchronize();
  EXPECT_FALSE(feed.show(0, acts_));
  ASSERT_TRUE(feed.show(1, acts_));
  EXPECT_EQ(*static_cast<const std::int32_t*>(acts_.labels.data), 11);
  ASSERT_TRUE(feed.show(2, acts_));
  EXPECT_EQ(*static_cast<const std::int32_t*>(acts_.labels.data), 12);
  EXPECT_FALSE(feed.show(3, acts_));
}

TEST(FeedingHostMemory, IsWrittenWhereItIsRead) {
  const auto device = make_cpu_device();
  Arena arena("test", *device, 1 << 10);
  Activations acts;
  acts.raw_images = arena.allocate(Dtype::u8, {2, 3});
  acts.labels = arena.allocate(Dtype::i32, {2, 1});
  PassFeed feed(*device, acts);
  for (int i = 0; i < 3; ++i) {
    const PassData data = feed.next();
    EXPECT_EQ(data.raw_images.data, acts.raw_images.data);
    EXPECT_EQ(data.labels.data, acts.labels.data);
    EXPECT_FALSE(data.mix_weights);
    feed.send(acts);
    feed.used();
  }
  EXPECT_EQ(feed.sent(), 3);
}

}  // namespace
}  // namespace vitrail
