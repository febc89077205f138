#pragma once
// An NVIDIA GPU as a Device: one stream for the queue, one for uploads, and how ops/cuda and comm/nccl reach them.

#include <cuda_runtime.h>

#include "device/device.hpp"

namespace vitrail::cuda {

/// What the rooms that may include CUDA's headers see of make_cuda_device()'s device.
class StreamDevice : public Device {
 public:
  [[nodiscard]] DeviceKind kind() const noexcept final { return DeviceKind::cuda; }
  /// The queue.
  [[nodiscard]] virtual cudaStream_t stream() const noexcept = 0;
  [[nodiscard]] virtual const cudaDeviceProp& properties() const noexcept = 0;
};

/// Error (other) for a device that is no GPU.
StreamDevice& stream_device(Device& device);

}  // namespace vitrail::cuda
