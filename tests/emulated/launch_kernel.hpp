#pragma once
// What the emulation's tests share: launching, buffers, and a clean state before and after each test.

#include <cstddef>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "cuda_runtime.h"
#include "device/cuda_emulated/emulation.hpp"

namespace vitrail::emulated {

template <class... Parameters, class... Arguments>
cudaError_t launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, std::size_t shared, cudaStream_t stream,
                   Arguments&&... arguments) {
  const cudaLaunchConfig_t config{grid, block, shared, stream, nullptr, 0};
  return cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...);
}

/// Device memory for a test; copies wait.
template <class T>
class Buffer {
 public:
  explicit Buffer(std::size_t count) : count_(count) { EXPECT_EQ(cudaMalloc(&data_, count * sizeof(T)), cudaSuccess); }
  explicit Buffer(const std::vector<T>& values) : Buffer(values.size()) {
    EXPECT_EQ(cudaMemcpy(data_, values.data(), count_ * sizeof(T), cudaMemcpyHostToDevice), cudaSuccess);
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() { cudaFree(data_); }
  [[nodiscard]] T* get() const { return data_; }
  [[nodiscard]] std::vector<T> values() const {
    std::vector<T> host(count_);
    EXPECT_EQ(cudaMemcpy(host.data(), data_, count_ * sizeof(T), cudaMemcpyDeviceToHost), cudaSuccess);
    return host;
  }

 private:
  std::size_t count_;
  T* data_ = nullptr;
};

class EmulatedTest : public testing::Test {
 protected:
  void SetUp() override { simulation() = kept_; }
  void TearDown() override {
    forget_failure();
    simulation() = kept_;
  }

 private:
  Simulation kept_ = simulation();
};

/// Both orders of lanes.
class InBothOrders : public EmulatedTest, public testing::WithParamInterface<LaneOrder> {
 protected:
  void SetUp() override {
    EmulatedTest::SetUp();
    simulation().lanes = GetParam();
  }
};
inline auto both_orders() { return testing::Values(LaneOrder::ascending, LaneOrder::descending); }
inline std::string order_name(const testing::TestParamInfo<LaneOrder>& info) {
  return info.param == LaneOrder::ascending ? "Ascending" : "Descending";
}

}  // namespace vitrail::emulated
