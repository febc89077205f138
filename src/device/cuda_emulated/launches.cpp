// Kernel launches, and waiting for the whole device.

#include <mutex>
#include <utility>

#include "block.hpp"
#include "emulation.hpp"
#include "machine.hpp"

using namespace vitrail::emulated;

namespace {

constexpr std::size_t kSharedWithoutAsking = 48 << 10;

cudaError_t check_config(const cudaLaunchConfig_t& config, const void* function) {
  const dim3 grid = config.gridDim, block = config.blockDim;
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || block.x == 0 || block.y == 0 || block.z == 0) {
    return cudaErrorInvalidConfiguration;
  }
  if (grid.x > 0x7FFFFFFFU || grid.y > 65535 || grid.z > 65535) return cudaErrorInvalidConfiguration;
  if (block.x > 1024 || block.y > 1024 || block.z > 64) return cudaErrorInvalidConfiguration;
  if (block.x * block.y * block.z > kMaxLanes) return cudaErrorInvalidConfiguration;
  const auto raised = machine().shared_limit.find(function);
  const std::size_t limit = raised == machine().shared_limit.end() ? kSharedWithoutAsking : raised->second;
  return config.dynamicSmemBytes <= limit ? cudaSuccess : cudaErrorInvalidValue;
}

}  // namespace

namespace vitrail::emulated {

cudaError_t enqueue_kernel(const cudaLaunchConfig_t& config, const void* function, std::function<void()> call) {
  const std::lock_guard lock(machine().mutex);
  if (const cudaError_t error = standing_error(); error != cudaSuccess) return remembered(error);
  CUstream_st* stream = machine().find(config.stream);
  if (stream == nullptr) return remembered(cudaErrorInvalidResourceHandle);
  if (const cudaError_t error = check_config(config, function); error != cudaSuccess) return remembered(error);
  if (simulation().major < 8) return remembered(cudaErrorNoKernelImageForDevice);
  Launch launch{std::move(call), function, config.gridDim, config.blockDim, config.dynamicSmemBytes};
  const auto run = [launch = std::move(launch)] {
    if (machine().next_fails(launch.function)) return machine().illegal_address(launch.function);
    return block_runner().run(launch, machine().next_is_descending());
  };
  if (const cudaError_t error = machine().enqueue(*stream, {WorkKind::kernel, run}); error != cudaSuccess) {
    return remembered(error);
  }
  const bool waits = simulation().launch_blocking && stream->capture == nullptr;
  return remembered(waits ? machine().run_until({stream, stream->last_ticket}) : cudaSuccess);
}

}  // namespace vitrail::emulated

cudaError_t cudaFuncSetAttribute(const void* function, cudaFuncAttribute attribute, int value) {
  const std::lock_guard lock(machine().mutex);
  if (const cudaError_t error = standing_error(); error != cudaSuccess) return remembered(error);
  if (function == nullptr) return remembered(cudaErrorInvalidDeviceFunction);
  if (attribute == cudaFuncAttributePreferredSharedMemoryCarveout) return cudaSuccess;
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize || value < 0 ||
      static_cast<std::size_t>(value) > kMaxSharedBytes) {
    return remembered(cudaErrorInvalidValue);
  }
  machine().shared_limit[function] = static_cast<std::size_t>(value);
  return cudaSuccess;
}

cudaError_t cudaDeviceSynchronize() {
  const std::lock_guard lock(machine().mutex);
  cudaError_t error = standing_error();
  if (error == cudaSuccess) error = machine().refuse_in_capture(cudaErrorStreamCaptureUnsupported);
  if (error == cudaSuccess) error = machine().run_all();
  return remembered(error);
}
