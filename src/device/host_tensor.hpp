#pragma once
// A tensor in the host memory that a device uploads from and downloads to.

#include <utility>

#include "device/device.hpp"

namespace vitrail {

class HostTensor {
 public:
  HostTensor() = default;
  /// Not initialised.
  HostTensor(Device& device, Dtype dtype, const Shape& shape)
      : device_(&device), view_(nullptr, shape, dtype, DeviceKind::cpu) {
    view_.data = device.allocate_host(view_.bytes());
  }
  HostTensor(HostTensor&& other) noexcept
      : device_(std::exchange(other.device_, nullptr)), view_(std::exchange(other.view_, Tensor())) {}
  HostTensor& operator=(HostTensor&& other) noexcept {
    std::swap(device_, other.device_);
    std::swap(view_, other.view_);
    return *this;
  }
  HostTensor(const HostTensor&) = delete;
  HostTensor& operator=(const HostTensor&) = delete;
  ~HostTensor() {
    if (device_ != nullptr) device_->release_host(view_.data, view_.bytes());
  }

  [[nodiscard]] Tensor view() const noexcept { return view_; }

 private:
  Device* device_ = nullptr;
  Tensor view_;
};

}  // namespace vitrail
