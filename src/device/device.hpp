#pragma once
// Where memory is and how bytes are moved there. One Device object per rank, made in main and handed down.

#include <cstdint>
#include <memory>

#include "device/tensor.hpp"

namespace vitrail {

class Device {
 public:
  Device() = default;
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;
  virtual ~Device() = default;

  [[nodiscard]] virtual DeviceKind kind() const noexcept = 0;
  /// Memory aligned to at least 64 bytes, not initialised. Error (usage) when there is not enough.
  virtual void* allocate(std::int64_t bytes) = 0;
  virtual void release(void* memory, std::int64_t bytes) noexcept = 0;
  /// Copies between tensors of equal dtype and element count; either may be host memory. Done when it returns.
  virtual void copy(ConstTensor from, Tensor to) = 0;
  /// Sets every byte to 0.
  virtual void zero(Tensor tensor) = 0;
};

/// Host memory: 64-byte aligned, huge pages advised for large blocks.
std::unique_ptr<Device> make_cpu_device();

}  // namespace vitrail
