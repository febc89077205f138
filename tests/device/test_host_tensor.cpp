#include <utility>

#include <gtest/gtest.h>

#include "device/host_tensor.hpp"

namespace vitrail {
namespace {

/// Counts what of its host memory is out.
class CountingDevice final : public Device {
 public:
  [[nodiscard]] DeviceKind kind() const noexcept override { return DeviceKind::cuda; }
  [[nodiscard]] std::string description() const override { return "counting"; }
  void* allocate(std::int64_t bytes) override { return host_->allocate(bytes); }
  void release(void* memory, std::int64_t bytes) noexcept override { host_->release(memory, bytes); }
  void* allocate_host(std::int64_t bytes) override {
    out += bytes;
    return host_->allocate_host(bytes);
  }
  void release_host(void* memory, std::int64_t bytes) noexcept override {
    out -= bytes;
    host_->release_host(memory, bytes);
  }
  void copy(ConstTensor, Tensor) override {}
  void zero(Tensor) override {}
  [[nodiscard]] Place place() override { return 0; }
  void wait(Place) override {}
  void upload(ConstTensor, Tensor, Place) override {}
  void download(ConstTensor, Tensor) override {}
  void submit(const std::string&, const std::function<void()>&) override {}
  [[nodiscard]] bool asynchronous() const noexcept override { return true; }

  std::int64_t out = 0;

 private:
  std::unique_ptr<Device> host_ = make_cpu_device();
};

TEST(HostTensor, GivesItsMemoryBackOnceHoweverItWasMoved) {
  CountingDevice device;
  {
    HostTensor first(device, Dtype::f32, {3, 5});
    EXPECT_EQ(device.out, 60);
    EXPECT_EQ(first.view().shape, (Shape{3, 5}));
    EXPECT_EQ(first.view().device, DeviceKind::cpu);
    first.view().as<float>()[14] = 7;
    HostTensor second(std::move(first));
    first = HostTensor(device, Dtype::u8, {4});
    EXPECT_EQ(device.out, 64);
    std::swap(first, second);
    EXPECT_EQ(first.view().as<float>()[14], 7);
    second = HostTensor();
    EXPECT_EQ(device.out, 60);
  }
  EXPECT_EQ(device.out, 0);
}

}  // namespace
}  // namespace vitrail
