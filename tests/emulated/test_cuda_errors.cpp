// How errors of the CUDA runtime reach people.

#include <functional>
#include <string>

#include <gtest/gtest.h>

#include "device/cuda/cuda_device.hpp"
#include "device/cuda/launch.hpp"
#include "device/cuda_emulated/emulation.hpp"
#include "tests/emulated/kernels.hpp"
#include "tests/emulated/launch_kernel.hpp"
#include "tests/errors.hpp"

namespace vitrail::cuda {
namespace {

using testing::error_of;

Error error_of(cudaError_t rc) {
  return testing::error_of([&] { check(rc); });
}

void expect_said(const Error& error, const std::string& part) {
  EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << part << " is missing in: " << error.what();
}

TEST(CudaCheck, LetsSuccessPass) { EXPECT_EQ(error_of(cudaSuccess).code(), ExitCode::done); }

TEST(CudaCheck, NamesTheErrorAndThePlace) {
  const Error error = error_of(cudaErrorInvalidValue);
  EXPECT_EQ(error.code(), ExitCode::other);
  expect_said(error, "CUDA failed with cudaErrorInvalidValue [invalid argument] (at test_cuda_errors.cpp:");
}

TEST(CudaCheck, SaysThatAnEarlierKernelMayHaveFailedAndHowToFindIt) {
  for (const cudaError_t rc : {cudaErrorIllegalAddress, cudaErrorMisalignedAddress, cudaErrorLaunchFailure}) {
    const Error error = error_of(rc);
    EXPECT_EQ(error.code(), ExitCode::other);
    expect_said(error, "but an earlier kernel may have done it). Run again with CUDA_LAUNCH_BLOCKING=1");
  }
}

TEST(CudaCheck, TooLittleMemoryAndMissingCodeAreTheUsersToMend) {
  EXPECT_EQ(error_of(cudaErrorMemoryAllocation).code(), ExitCode::usage);
  const Error error = error_of(cudaErrorNoKernelImageForDevice);
  EXPECT_EQ(error.code(), ExitCode::usage);
  expect_said(error, "CMAKE_CUDA_ARCHITECTURES");
}

TEST(CudaCheck, AKernelThatFailsIsSeenWhenItsPlaceIsWaitedFor) {
  for (const bool recorded : {false, true}) {
    const auto device = make_cuda_device({.graphs = recorded});
    const cudaStream_t stream = stream_device(*device).stream();
    device->submit("step", [] {});
    device->submit("step", [&] { launch(emulated::divergent_barrier, {.grid = 1, .block = 64, .stream = stream}); });
    const Device::Place place = device->place();
    const Error error = error_of([&] { device->wait(place); });
    EXPECT_EQ(error.code(), ExitCode::other);
    expect_said(error, "CUDA failed with cudaErrorLaunchFailure");
    expect_said(error, "but an earlier kernel may have done it");
    EXPECT_TRUE(error.fault().late);
    emulated::forget_failure();
  }
}

/// Launches that fail where a test wants it.
class FailingLaunch : public emulated::EmulatedTest {
 protected:
  static cudaError_t count(cudaStream_t stream, int* counts) {
    return emulated::launch(&emulated::count_threads, 1, 1, 0, stream, counts);
  }
  emulated::Buffer<int> counts_{std::vector<int>{0, 0, 0, 0}};
};

TEST_F(FailingLaunch, IsSeenWhenItIsWaitedFor) {
  emulated::simulation().failing_kernel = "count_threads";
  emulated::simulation().failing_launch = 2;
  for (int i = 0; i < 3; ++i) EXPECT_EQ(count(nullptr, counts_.get()), cudaSuccess);
  EXPECT_EQ(cudaDeviceSynchronize(), cudaErrorIllegalAddress);
  EXPECT_EQ(count(nullptr, counts_.get()), cudaErrorIllegalAddress) << "it stays";
  EXPECT_NE(emulated::kernel_failure().find("count_threads"), std::string::npos);
}

TEST_F(FailingLaunch, IsSeenAtOnceWhenLaunchesBlock) {
  emulated::simulation().failing_launch = 2;
  emulated::simulation().launch_blocking = true;
  EXPECT_EQ(count(nullptr, counts_.get()), cudaSuccess);
  EXPECT_EQ(count(nullptr, counts_.get()), cudaErrorIllegalAddress);
}

TEST_F(FailingLaunch, OfAnotherNameIsNotCounted) {
  emulated::simulation().failing_kernel = "another";
  emulated::simulation().failing_launch = 1;
  EXPECT_EQ(count(nullptr, counts_.get()), cudaSuccess);
  EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
}

}  // namespace
}  // namespace vitrail::cuda
