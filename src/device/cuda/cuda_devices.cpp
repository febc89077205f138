#include <cstdio>

#include <cuda_runtime.h>

#include "device/cuda/check.hpp"
#include "device/device.hpp"

namespace vitrail {

std::vector<std::string> cuda_devices() {
  int count = 0;
  std::vector<std::string> identities;
  if (cudaGetDeviceCount(&count) == cudaSuccess) {
    for (int index = 0; index < count; ++index) {
      cudaDeviceProp gpu{};
      if (cudaGetDeviceProperties(&gpu, index) != cudaSuccess) break;
      std::string identity;
      for (const char byte : gpu.uuid.bytes) {
        char digits[3];
        std::snprintf(digits, sizeof digits, "%02x", static_cast<unsigned>(static_cast<unsigned char>(byte)));
        identity += digits;
      }
      identities.push_back(identity);
    }
  }
  static_cast<void>(cudaGetLastError());  // make_cuda_device says what is wrong
  return identities;
}

MemoryInUse memory_in_use(const Device& device) {
  if (device.kind() != DeviceKind::cuda) return {};
  std::size_t free = 0;
  std::size_t total = 0;
  cuda::check(cudaMemGetInfo(&free, &total));  // of the GPU that this thread made its own with the device
  return {static_cast<std::int64_t>(total - free), static_cast<std::int64_t>(total)};
}

}  // namespace vitrail
