#pragma once
// Which GPU this process uses, and whether it can be used.

#include <string>

#include <cuda_runtime.h>

namespace vitrail::cuda {

/// The oldest GPUs that the kernels are written for (A100): bf16 matrix products and cp.async.
inline constexpr int kNeededMajor = 8;
inline constexpr int kNeededMinor = 0;

/// Makes GPU `index` the current one of this thread and starts it. Error (usage) that says what was found and what is
/// needed: no driver, too old a driver, no GPU of that index, too old a GPU, or one that does not start.
cudaDeviceProp open_gpu(int index);

/// "NVIDIA H200, compute capability 9.0, 139.8 GiB"
std::string description_of(const cudaDeviceProp& gpu);

}  // namespace vitrail::cuda
