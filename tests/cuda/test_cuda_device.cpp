// A GPU as a queue, on a real one or an emulated one. Suites have Cuda in their names: the emulated run picks by it.

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "device/arena.hpp"
#include "device/host_values.hpp"
#include "ops/ops.hpp"
#include "tests/errors.hpp"

namespace vitrail {
namespace {

using testing::error_of;

constexpr std::int64_t kCount = 1000;

/// kCount numbers on the device.
class OnGpu {
 public:
  explicit OnGpu(Device& device, double value = -1.0) : device_(device), memory_(device.allocate(kBytes)) {
    set(value);
    device.synchronize();
  }
  OnGpu(const OnGpu&) = delete;
  OnGpu& operator=(const OnGpu&) = delete;
  ~OnGpu() { device_.release(memory_, kBytes); }
  [[nodiscard]] Tensor tensor() const { return {memory_, {kCount}, Dtype::f32, DeviceKind::cuda}; }
  void set(double value) const {
    from_doubles(std::vector<double>(static_cast<std::size_t>(kCount), value), device_, tensor());
  }
  /// All of them are this.
  [[nodiscard]] bool holds(double value) const {
    return to_doubles(device_, tensor()) == std::vector<double>(static_cast<std::size_t>(kCount), value);
  }

 private:
  static constexpr std::int64_t kBytes = kCount * 4;
  Device& device_;
  void* memory_;
};

/// kCount numbers in memory that a device copies by itself.
class Pinned {
 public:
  explicit Pinned(Device& device, float value = -1.0F) : device_(device), memory_(device.allocate_host(kCount * 4)) {
    set(value);
  }
  Pinned(const Pinned&) = delete;
  Pinned& operator=(const Pinned&) = delete;
  ~Pinned() { device_.release_host(memory_, kCount * 4); }
  [[nodiscard]] Tensor tensor() const { return {memory_, {kCount}, Dtype::f32}; }
  void set(float value) const { std::fill_n(static_cast<float*>(memory_), kCount, value); }
  [[nodiscard]] bool holds(float value) const {
    return std::count(static_cast<float*>(memory_), static_cast<float*>(memory_) + kCount, value) == kCount;
  }

 private:
  Device& device_;
  void* memory_;
};

void expect_said(const std::string& said, const std::string& part) {
  EXPECT_NE(said.find(part), std::string::npos) << "'" << part << "' is missing in: " << said;
}

class CudaDevice : public ::testing::Test {
 protected:
  std::unique_ptr<Device> device_ = make_cuda_device();
};

TEST_F(CudaDevice, DescribesItself) {
  EXPECT_EQ(device_->kind(), DeviceKind::cuda);
  EXPECT_TRUE(device_->asynchronous());
  expect_said(device_->description(), ", compute capability ");
  expect_said(device_->description(), " GiB");
}

TEST_F(CudaDevice, CopiesAndZeroesInTheOrderOfTheCalls) {
  const OnGpu a(*device_, 1.0), b(*device_), c(*device_);
  device_->copy(a.tensor(), b.tensor());
  device_->zero(a.tensor());
  device_->copy(a.tensor(), c.tensor());
  EXPECT_TRUE(a.holds(0.0));
  EXPECT_TRUE(b.holds(1.0));
  EXPECT_TRUE(c.holds(0.0));
}

TEST_F(CudaDevice, CopiesOfHostMemoryAreDoneWhenTheyReturn) {
  const OnGpu a(*device_);
  std::vector<float> host(static_cast<std::size_t>(kCount), 3.0F);
  device_->copy(ConstTensor(host.data(), {kCount}, Dtype::f32), a.tensor());
  host.assign(host.size(), 4.0F);
  EXPECT_TRUE(a.holds(3.0));
  const Pinned pinned(*device_, 5.0F);
  device_->copy(pinned.tensor(), a.tensor());
  pinned.set(6.0F);
  EXPECT_TRUE(a.holds(5.0));
  device_->copy(a.tensor(), pinned.tensor());
  EXPECT_TRUE(pinned.holds(5.0F));
  device_->copy(pinned.tensor(), Tensor(host.data(), {kCount}, Dtype::f32));
  EXPECT_EQ(host, std::vector<float>(host.size(), 5.0F));
}

TEST_F(CudaDevice, CopiesEqualSizesAndDtypesOnly) {
  const OnGpu a(*device_), b(*device_);
  EXPECT_THROW(device_->copy(a.tensor(), b.tensor().slice(0, 3)), Error);
  const Tensor integers(b.tensor().data, {kCount}, Dtype::i32, DeviceKind::cuda);
  EXPECT_THROW(device_->copy(a.tensor(), integers), Error);
  const Pinned pinned(*device_);
  EXPECT_THROW(device_->upload(pinned.tensor(), a.tensor().slice(0, 3), 0), Error);
  EXPECT_THROW(device_->upload(a.tensor(), b.tensor(), 0), Error);
  EXPECT_THROW(device_->download(pinned.tensor(), pinned.tensor()), Error);
}

TEST_F(CudaDevice, TensorsWithoutElementsAreNoWork) {
  EXPECT_EQ(device_->allocate(0), nullptr);
  EXPECT_EQ(device_->allocate_host(0), nullptr);
  device_->release(nullptr, 0);
  device_->release_host(nullptr, 0);
  const Tensor none(nullptr, {0, 7}, Dtype::f32, DeviceKind::cuda);
  const Tensor host(nullptr, {0, 7}, Dtype::f32);
  device_->copy(none, none);
  device_->copy(host, none);
  device_->zero(none);
  device_->upload(host, none, device_->place());
  device_->download(none, host);
  device_->synchronize();
}

TEST_F(CudaDevice, MemoryIsAlignedTo64Bytes) {
  for (const std::int64_t bytes : {1, 65, 1000}) {
    void* memory = device_->allocate(bytes);
    void* host = device_->allocate_host(bytes);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(memory) % 64, 0U);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(host) % 64, 0U);
    device_->release(memory, bytes);
    device_->release_host(host, bytes);
  }
}

TEST_F(CudaDevice, ArenasAreZero) {
  Arena arena("test", *device_, 4096);
  const Tensor tensor = arena.allocate(Dtype::f32, {1024});
  EXPECT_EQ(tensor.device, DeviceKind::cuda);
  EXPECT_EQ(to_doubles(*device_, tensor), std::vector<double>(1024, 0.0));
}

TEST_F(CudaDevice, PlacesGrowAndCanBeWaitedForInAnyOrder) {
  const OnGpu a(*device_, 1.0), b(*device_);
  const Pinned first(*device_), second(*device_);
  device_->download(a.tensor(), first.tensor());
  const Device::Place early = device_->place();
  device_->zero(a.tensor());
  device_->download(a.tensor(), second.tensor());
  const Device::Place late = device_->place();
  EXPECT_LT(early, late);
  device_->wait(early);
  EXPECT_TRUE(first.holds(1.0F));
  device_->wait(late);
  EXPECT_TRUE(second.holds(0.0F));
  device_->wait(early);
  device_->wait(0);
  EXPECT_THROW(device_->wait(late + 1), Error);
  EXPECT_THROW(device_->upload(first.tensor(), a.tensor(), late + 1), Error);
}

TEST_F(CudaDevice, GivesOutAnyNumberOfPlaces) {
  const OnGpu a(*device_, 1.0), b(*device_);
  const Pinned pinned(*device_);
  std::vector<Device::Place> places;
  for (int i = 0; i < 1000; ++i) {
    device_->copy(a.tensor(), b.tensor());
    places.push_back(device_->place());
    EXPECT_TRUE(i == 0 || places[places.size() - 2] < places.back());
    if (i % 100 == 99) device_->wait(places[places.size() - 50]);
  }
  device_->download(b.tensor(), pinned.tensor());
  device_->wait(device_->place());
  EXPECT_TRUE(pinned.holds(1.0F));
  for (const Device::Place place : places) device_->wait(place);
}

TEST_F(CudaDevice, DownloadsTakeTheirTurnInTheQueue) {
  const OnGpu a(*device_, 1.0), b(*device_, 2.0);
  const Pinned pinned(*device_);
  device_->copy(b.tensor(), a.tensor());
  device_->download(a.tensor(), pinned.tensor());
  device_->zero(a.tensor());
  device_->wait(device_->place());
  EXPECT_TRUE(pinned.holds(2.0F));
}

// The release of other host memory waits for uploads first: so an upload that does not wait for its place is early.
TEST_F(CudaDevice, AnUploadDoesNotBeginBeforeItsPlaceIsReached) {
  const OnGpu a(*device_, 1.0), before(*device_), after(*device_);
  const Pinned pinned(*device_, 2.0F);
  {
    const Pinned other(*device_);
    device_->copy(a.tensor(), before.tensor());
    const Device::Place free = device_->place();
    device_->upload(pinned.tensor(), a.tensor(), free);
    device_->copy(a.tensor(), after.tensor());
  }
  EXPECT_TRUE(before.holds(1.0));
  EXPECT_TRUE(after.holds(2.0));
}

TEST_F(CudaDevice, WhatIsCalledAfterAnUploadSeesIt) {
  const OnGpu a(*device_, 1.0), copy(*device_);
  const Pinned pinned(*device_, 2.0F);
  device_->upload(pinned.tensor(), a.tensor(), 0);
  device_->copy(a.tensor(), copy.tensor());
  const Device::Place place = device_->place();
  device_->wait(place);
  pinned.set(3.0F);  // a later place is reached
  EXPECT_TRUE(a.holds(2.0));
  EXPECT_TRUE(copy.holds(2.0));
}

TEST_F(CudaDevice, TwoBuffersTakeTurns) {
  const OnGpu batch(*device_), sum(*device_);
  const Pinned host[2] = {Pinned(*device_), Pinned(*device_)};
  const Pinned result(*device_);
  Device::Place read[2] = {0, 0};
  Device::Place used = 0;
  for (int step = 0; step < 6; ++step) {
    device_->wait(read[step % 2]);  // the upload of two steps ago
    host[step % 2].set(static_cast<float>(step));
    device_->upload(host[step % 2].tensor(), batch.tensor(), used);
    device_->copy(batch.tensor(), sum.tensor());
    device_->download(sum.tensor(), result.tensor());
    used = read[step % 2] = device_->place();
    if (step == 3) {
      device_->wait(used);
      EXPECT_TRUE(result.holds(3.0F));
    }
  }
  device_->synchronize();
  EXPECT_TRUE(result.holds(5.0F));
}

class CudaSubmit : public ::testing::TestWithParam<bool> {
 protected:
  std::unique_ptr<Device> device_ = make_cuda_device({.graphs = GetParam()});
  void copies(const OnGpu& from, const OnGpu& to, const std::string& name = "copies") {
    device_->submit(name, [&] { device_->copy(from.tensor(), to.tensor()); });
  }
};

TEST_P(CudaSubmit, RunsEveryCallWithItsOwnArguments) {
  const OnGpu a(*device_, 1.0), b(*device_, 2.0), c(*device_), d(*device_);
  copies(a, c);
  EXPECT_TRUE(c.holds(1.0));
  copies(b, c);
  EXPECT_TRUE(c.holds(2.0));
  copies(a, d);
  EXPECT_TRUE(d.holds(1.0));
  EXPECT_TRUE(c.holds(2.0));
  a.set(7.0);
  copies(a, d);
  EXPECT_TRUE(d.holds(7.0));
}

TEST_P(CudaSubmit, TakesItsTurnInTheQueue) {
  const OnGpu a(*device_, 1.0), b(*device_), c(*device_);
  for (int i = 0; i < 4; ++i) {
    device_->zero(b.tensor());
    copies(a, b);
    device_->copy(b.tensor(), c.tensor());
    device_->zero(b.tensor());
    EXPECT_TRUE(b.holds(0.0)) << i;
    EXPECT_TRUE(c.holds(1.0)) << i;
  }
}

TEST_P(CudaSubmit, SeveralInFlightDoNotDisturbEachOther) {
  const OnGpu a(*device_, 1.0), b(*device_, 2.0);
  std::vector<std::unique_ptr<OnGpu>> targets;
  targets.reserve(8);
  for (int i = 0; i < 8; ++i) targets.push_back(std::make_unique<OnGpu>(*device_));
  for (int i = 0; i < 8; ++i) copies(i % 2 == 0 ? a : b, *targets[static_cast<std::size_t>(i)]);
  for (int i = 0; i < 8; ++i) EXPECT_TRUE(targets[static_cast<std::size_t>(i)]->holds(1.0 + i % 2)) << i;
}

TEST_P(CudaSubmit, WorkOfOneNameMayChangeItsShape) {
  const OnGpu a(*device_, 1.0), b(*device_), c(*device_);
  for (int i = 0; i < 8; ++i) {
    device_->submit("pass", [&] {
      device_->copy(a.tensor(), b.tensor());
      if (i % 4 == 1) device_->zero(b.tensor());
      if (i % 4 == 2) device_->copy(b.tensor(), c.tensor());
    });
    EXPECT_TRUE(b.holds(i % 4 == 1 ? 0.0 : 1.0)) << i;
  }
  EXPECT_TRUE(c.holds(1.0));
}

TEST_P(CudaSubmit, NamesAreApartAndWorkMayBeEmpty) {
  const OnGpu a(*device_, 1.0), b(*device_, 2.0), c(*device_), d(*device_);
  for (int i = 0; i < 3; ++i) {
    copies(a, c, "one");
    copies(b, d, "another");
    device_->submit("nothing", [] {});
  }
  EXPECT_TRUE(c.holds(1.0));
  EXPECT_TRUE(d.holds(2.0));
}

TEST_P(CudaSubmit, WhatIsThrownGoesThroughAndTheDeviceGoesOn) {
  const OnGpu a(*device_, 1.0), b(*device_);
  for (int i = 0; i < 3; ++i) {
    const auto fail_at_once = [&] { device_->submit("bad", [] { throw std::runtime_error("no"); }); };
    EXPECT_THROW(fail_at_once(), std::runtime_error) << i;
    copies(a, b, "good");
    EXPECT_TRUE(b.holds(1.0)) << i;
    const auto fail_late = [&] {
      device_->submit("good", [&] {
        device_->zero(b.tensor());
        throw std::runtime_error("no");
      });
    };
    EXPECT_THROW(fail_late(), std::runtime_error) << i;
    EXPECT_TRUE(b.holds(GetParam() ? 1.0 : 0.0)) << "recorded, nothing runs; called, what came before does";
    copies(a, b, "good");
    EXPECT_TRUE(b.holds(1.0)) << i;
  }
}

TEST_P(CudaSubmit, RefusesWhatCannotBeRecordedAndSaysSo) {
  const OnGpu a(*device_, 1.0), b(*device_);
  const Pinned pinned(*device_);
  copies(a, b, "work");
  const auto inside = [&](const std::function<void()>& call) {
    return error_of([&] { device_->submit("work", call); });
  };
  expect_said(inside([&] { copies(a, b); }).what(), "inside of work that was submitted");
  if (GetParam()) {
    for (const Error& error : {
             inside([&] { device_->copy(pinned.tensor(), a.tensor()); }),
             inside([&] { device_->upload(pinned.tensor(), a.tensor(), 0); }),
             inside([&] { device_->download(a.tensor(), pinned.tensor()); }),
         }) {
      EXPECT_EQ(error.code(), ExitCode::other);
      expect_said(error.what(), "inside of work that was submitted");
    }
    expect_said(inside([&] { device_->synchronize(); }).what(), "a place while work is recorded");
    expect_said(inside([&] { device_->wait(0); }).what(), "a wait while work is recorded");
    expect_said(inside([&] { (void)device_->allocate(4); }).what(), "an allocation while work is recorded");
  }
  copies(a, b, "work");
  EXPECT_TRUE(b.holds(1.0));
}

TEST_P(CudaSubmit, WithoutGraphsWorkMayGoThroughHostMemory) {
  if (GetParam()) GTEST_SKIP() << "it is recorded";
  const OnGpu a(*device_, 1.0), b(*device_);
  const Pinned pinned(*device_);
  device_->submit("exchange", [&] {
    device_->download(a.tensor(), pinned.tensor());
    device_->synchronize();
    device_->upload(pinned.tensor(), b.tensor(), device_->place());
  });
  EXPECT_TRUE(b.holds(1.0));
}

TEST_P(CudaSubmit, TheFirstWorkOfANameMayWaitAndAllocate) {
  void* grown = nullptr;
  device_->submit("work", [&] {
    device_->synchronize();
    grown = device_->allocate(100);
  });
  EXPECT_NE(grown, nullptr);
  device_->release(grown, 100);
}

INSTANTIATE_TEST_SUITE_P(Graphs, CudaSubmit, ::testing::Bool(),
                         [](const auto& graphs) { return graphs.param ? "Recorded" : "Called"; });

TEST_F(CudaDevice, SaysHowMuchMemoryWasAskedForAndHowMuchIsFree) {
  const std::int64_t asked = std::int64_t{1} << 50;
  const Error error = error_of([&] { (void)device_->allocate(asked); });
  EXPECT_EQ(error.code(), ExitCode::usage);
  expect_said(error.what(), text(asked, " bytes of GPU memory were refused"));
  expect_said(error.what(), " bytes are free on GPU 0, ");
  expect_said(error_of([&] { const Arena arena("optimizer", *device_, asked); }).what(), "no memory for the optimizer");
  const OnGpu a(*device_, 1.0);  // and goes on
  EXPECT_TRUE(a.holds(1.0));
}

TEST(CudaChoice, ANumberThatNoGpuHasIsRefusedWithThoseThatAre) {
  for (const int index : {-1, 4711}) {
    const Error error = error_of([&] { (void)make_cuda_device({.index = index}); });
    EXPECT_EQ(error.code(), ExitCode::usage);
    expect_said(error.what(), text("there is no GPU ", index, " (this process sees "));
    expect_said(error.what(), "number");
  }
}

TEST(CudaChoice, OpsNeedAGpu) {
  const auto host = make_cpu_device();
  const Error error = error_of([&] { (void)make_cuda_ops(*host, Precision::f32); });
  expect_said(error.what(), "the device 'host' is no GPU");
}

/// Makes a device in another process with this environment, and ends it as a program would.
class CudaAbsence : public ::testing::Test {
 protected:
  void SetUp() override { GTEST_FLAG_SET(death_test_style, "threadsafe"); }
  void TearDown() override {
    for (const auto& name : set_) unsetenv(name.c_str());
  }
  void set(const std::string& name, const std::string& value) {
    setenv(name.c_str(), value.c_str(), 1);
    set_.push_back(name);
  }
  [[noreturn]] static void make_and_end() {
    const Error error = error_of([] { (void)make_cuda_device(); });
    std::fputs(error.what(), stderr);
    std::_Exit(static_cast<int>(error.code()));
  }

 private:
  std::vector<std::string> set_;
};

TEST_F(CudaAbsence, WithoutAGpuItSaysWhatIsNeeded) {
  set("VITRAIL_EMULATED_DEVICES", "0");
  set("CUDA_VISIBLE_DEVICES", "-1");
  EXPECT_EXIT(make_and_end(), ::testing::ExitedWithCode(2),
              "no GPU was found .the cuda back end needs an NVIDIA GPU of compute capability 8.0 or later, "
              "CUDA_VISIBLE_DEVICES is '-1'");
}

TEST_F(CudaAbsence, AnOldGpuIsRefusedWithItsNameAndWhatIsNeeded) {
  const bool in_child = std::getenv("VITRAIL_EMULATED_CAPABILITY") != nullptr;
  if (!in_child && make_cuda_device()->description().find("emulated") == std::string::npos) {
    GTEST_SKIP() << "this GPU is none of the old ones";
  }
  set("VITRAIL_EMULATED_CAPABILITY", "75");
  EXPECT_EXIT(make_and_end(), ::testing::ExitedWithCode(2),
              "GPU 0 .emulated GPU. is too old: compute capability 7.5 .the kernels need compute capability 8.0");
}

}  // namespace
}  // namespace vitrail
