#pragma once
// The one way in which kernels are started.

#include <cstddef>
#include <source_location>

#include <cuda_runtime.h>

#include "device/cuda/check.hpp"

namespace vitrail::cuda {

struct Launch {
  dim3 grid = 1;
  dim3 block = 1;
  std::size_t shared_bytes = 0;  ///< of shared_memory<T>() (gpu_intrinsics.hpp)
  cudaStream_t stream = nullptr;
};

/// Shared memory that a kernel may ask for without being told so before.
inline constexpr std::size_t kSharedBytesAtFirst = std::size_t{48} << 10;

/// kernel(args...) on a grid of blocks, in the order of the stream. Nothing is done for an empty grid.
template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), const Launch& how, Arguments... args) {
  if (how.grid.x == 0 || how.grid.y == 0 || how.grid.z == 0) return;
  if (how.shared_bytes > kSharedBytesAtFirst) {
    check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(how.shared_bytes)));
  }
  cudaLaunchConfig_t config{};
  config.gridDim = how.grid;
  config.blockDim = how.block;
  config.dynamicSmemBytes = how.shared_bytes;
  config.stream = how.stream;
  check(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(args)...));
}

}  // namespace vitrail::cuda
