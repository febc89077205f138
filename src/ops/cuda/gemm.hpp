#pragma once
// Matrix products by cuBLASLt.

#include "device/cuda/cuda_device.hpp"

namespace vitrail::cuda {

class Gemm {
 public:
  explicit Gemm(StreamDevice& device) : device_(device) {}
  void seal() noexcept {}

 private:
  [[maybe_unused]] StreamDevice& device_;
};

}  // namespace vitrail::cuda
