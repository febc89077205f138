#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "tests/emulated/kernels.hpp"
#include "tests/emulated/launch_kernel.hpp"

namespace vitrail::emulated {
namespace {

class Memory : public EmulatedTest {};
using MemoryDeathTest = Memory;

TEST_F(Memory, IsNaNWhenItIsNew) {
  const Buffer<float> fresh(1000);
  for (const float value : fresh.values()) ASSERT_TRUE(std::isnan(value));
  float* pinned = nullptr;
  ASSERT_EQ(cudaMallocHost(&pinned, 4), cudaSuccess);
  EXPECT_TRUE(std::isnan(*pinned));
  EXPECT_EQ(cudaFreeHost(pinned), cudaSuccess);
}

TEST_F(Memory, IsNaNAgainWhenItIsReused) {
  for (int i = 0; i < 4; ++i) {
    const Buffer<float> block(5000);
    ASSERT_TRUE(std::isnan(block.values()[4999]));
    ASSERT_EQ(cudaMemset(block.get(), 0, 20000), cudaSuccess);
    ASSERT_EQ(block.values()[4999], 0.0F);
  }
}

TEST_F(Memory, IsAlignedTo256BytesAndNoMore) {
  for (const std::size_t bytes : {1U, 255U, 256U, 4096U, 100001U}) {
    const Buffer<std::byte> block(bytes);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(block.get()) % 512, 256U);
  }
}

TEST_F(MemoryDeathTest, IsOutOfTheHostsReach) {
  const Buffer<float> block(std::vector<float>{1.0F});
  EXPECT_DEATH(*static_cast<volatile float*>(block.get()) = 2.0F, "");
  EXPECT_DEATH(std::exit(*static_cast<volatile float*>(block.get()) > 0.0F ? 0 : 1), "");
  EXPECT_EQ(block.values()[0], 1.0F);
}

// Address sanitizer ends the program at the write; without it the guards are found damaged when the work is through.
void expect_seen(int index) {
#ifdef __SANITIZE_ADDRESS__
  EXPECT_DEATH(
      {
        const Buffer<float> block(33);
        (void)launch(&write_at, 1, 1, 0, nullptr, block.get(), index);
        (void)cudaDeviceSynchronize();
      },
      "use-after-poison");
#else
  EXPECT_EXIT(
      {
        const Buffer<float> block(33);
        (void)launch(&write_at, 1, 1, 0, nullptr, block.get(), index);
        std::_Exit(cudaDeviceSynchronize() == cudaErrorLaunchFailure ? 7 : 0);
      },
      testing::ExitedWithCode(7), "a block of device memory of 132 bytes");
#endif
}

TEST_F(MemoryDeathTest, AWriteOutsideOfItIsSeen) {
  expect_seen(33);
  expect_seen(-1);
  expect_seen(33 + 60);
  EXPECT_DEATH(
      {
        const Buffer<float> block(33);
        (void)launch(&write_at, 1, 1, 0, nullptr, block.get(), 2048);
        (void)cudaDeviceSynchronize();
      },
      "")
      << "a page that is not there";
}

TEST_F(MemoryDeathTest, AWriteBehindSharedMemoryIsSeen) {
#ifdef __SANITIZE_ADDRESS__
  EXPECT_DEATH(
      {
        (void)launch(&write_behind_shared_memory, 1, 1, sizeof(Ring), nullptr, 0);
        (void)cudaDeviceSynchronize();
      },
      "use-after-poison");
#else
  ASSERT_EQ(launch(&write_behind_shared_memory, 1, 1, sizeof(Ring), nullptr, 0), cudaSuccess);
  EXPECT_EQ(cudaDeviceSynchronize(), cudaErrorLaunchFailure);
  EXPECT_NE(kernel_failure().find("behind the block's shared memory"), std::string::npos);
#endif
}

TEST_F(MemoryDeathTest, AUseAfterItWasFreedIsSeen) {
  EXPECT_DEATH(
      {
        float* block = nullptr;
        (void)cudaMalloc(&block, 1 << 20);
        (void)cudaFree(block);
        (void)launch(&write_at, 1, 1, 0, nullptr, block, 5);
        (void)cudaDeviceSynchronize();
      },
      "");
}

TEST_F(Memory, ComesToAnEnd) {
  simulation().memory_mib = 2;
  void *first = nullptr, *second = nullptr;
  ASSERT_EQ(cudaMalloc(&first, 3 << 19), cudaSuccess);
  EXPECT_EQ(cudaMalloc(&second, 3 << 19), cudaErrorMemoryAllocation);
  EXPECT_EQ(second, nullptr);
  std::size_t free = 0, total = 0;
  ASSERT_EQ(cudaMemGetInfo(&free, &total), cudaSuccess);
  EXPECT_EQ(free, 1U << 19);
  EXPECT_EQ(total, 2U << 20);
  ASSERT_EQ(cudaFree(first), cudaSuccess);
  EXPECT_EQ(cudaMalloc(&second, 3 << 19), cudaSuccess);
  ASSERT_EQ(cudaFree(second), cudaSuccess);
  EXPECT_EQ(cudaFree(second), cudaErrorInvalidValue) << "freed twice";
  EXPECT_EQ(cudaFree(nullptr), cudaSuccess);
}

TEST_F(Memory, CopiesMustSayWhereTheyGo) {
  const Buffer<float> block(4);
  std::vector<float> host(4);
  EXPECT_EQ(cudaMemcpy(host.data(), block.get(), 16, cudaMemcpyHostToDevice), cudaErrorInvalidValue);
  EXPECT_EQ(cudaMemcpy(host.data(), block.get(), 16, cudaMemcpyDeviceToDevice), cudaErrorInvalidValue);
  EXPECT_EQ(cudaMemcpy(block.get(), host.data(), 20, cudaMemcpyHostToDevice), cudaErrorInvalidValue) << "too long";
  EXPECT_EQ(cudaMemcpy(block.get(), host.data(), 16, cudaMemcpyDefault), cudaSuccess);
  EXPECT_EQ(cudaMemset(block.get() + 1, 0, 16), cudaErrorInvalidValue) << "too long";
}

TEST_F(Memory, KnowsWhosePointersAre) {
  const Buffer<float> block(4);
  float pageable = 0.0F, *pinned = nullptr;
  ASSERT_EQ(cudaMallocHost(&pinned, 16), cudaSuccess);
  cudaPointerAttributes attributes{};
  ASSERT_EQ(cudaPointerGetAttributes(&attributes, block.get() + 3), cudaSuccess);
  EXPECT_EQ(attributes.type, cudaMemoryTypeDevice);
  ASSERT_EQ(cudaPointerGetAttributes(&attributes, pinned + 3), cudaSuccess);
  EXPECT_EQ(attributes.type, cudaMemoryTypeHost);
  ASSERT_EQ(cudaPointerGetAttributes(&attributes, &pageable), cudaSuccess);
  EXPECT_EQ(attributes.type, cudaMemoryTypeUnregistered);
  EXPECT_EQ(cudaFreeHost(pinned), cudaSuccess);
}

class Devices : public EmulatedTest {};

TEST_F(Devices, CanBeMissing) {
  simulation().devices = 0;
  int count = -1;
  EXPECT_EQ(cudaGetDeviceCount(&count), cudaErrorNoDevice);
  EXPECT_EQ(count, 0);
  void* block = nullptr;
  EXPECT_EQ(cudaMalloc(&block, 16), cudaErrorNoDevice);
  EXPECT_EQ(cudaSetDevice(0), cudaErrorNoDevice);
  EXPECT_STREQ(cudaGetErrorName(cudaErrorNoDevice), "cudaErrorNoDevice");
  EXPECT_STREQ(cudaGetErrorString(cudaErrorNoDevice), "no CUDA-capable device is detected");
}

TEST_F(Devices, CanBeTooOld) {
  simulation().major = 7;
  cudaDeviceProp properties{};
  ASSERT_EQ(cudaGetDeviceProperties(&properties, 0), cudaSuccess);
  EXPECT_EQ(properties.major, 7);
  EXPECT_EQ(launch(&divergent_barrier, 1, 1, 0, nullptr), cudaErrorNoKernelImageForDevice);
}

TEST_F(Devices, AreWhatTheEnvironmentSays) {
  const std::pair<const char*, const char*> variables[] = {{"VITRAIL_EMULATED_DEVICES", "3"},
                                                           {"VITRAIL_EMULATED_CAPABILITY", "70"},
                                                           {"VITRAIL_EMULATED_MEMORY_MIB", "123"},
                                                           {"VITRAIL_EMULATED_LANES", "descending"}};
  for (const auto& [name, value] : variables) {
    setenv(name, value, 1);
  }
  const Simulation said = simulation_of_environment();
  for (const auto& [name, value] : variables) unsetenv(name);
  EXPECT_EQ(said.devices, 3);
  EXPECT_EQ(said.major, 7);
  EXPECT_EQ(said.minor, 0);
  EXPECT_EQ(said.memory_mib, 123);
  EXPECT_EQ(said.lanes, LaneOrder::descending);
}

TEST_F(Devices, CanBeSeveral) {
  simulation().devices = 2;
  int count = 0;
  ASSERT_EQ(cudaGetDeviceCount(&count), cudaSuccess);
  EXPECT_EQ(count, 2);
  EXPECT_EQ(cudaSetDevice(1), cudaSuccess);
  EXPECT_EQ(cudaSetDevice(2), cudaErrorInvalidDevice);
}

}  // namespace
}  // namespace vitrail::emulated
