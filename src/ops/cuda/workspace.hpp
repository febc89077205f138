#pragma once
// Scratch memory on the device: one block that grows until it is sealed.

#include <cstdint>

#include "device/device.hpp"

namespace vitrail::cuda {

class Workspace {
 public:
  explicit Workspace(Device& device) : device_(device) {}
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;
  ~Workspace();

  /// 256-byte aligned, not initialised, valid until the next call. Error when it would have to grow after seal(), and
  /// Error (usage) when there is not enough memory. Growing waits for the device.
  void* bytes(std::int64_t count);
  void seal() noexcept { sealed_ = true; }
  [[nodiscard]] std::int64_t capacity() const noexcept { return capacity_; }  ///< bytes

 private:
  Device& device_;
  void* block_ = nullptr;
  std::int64_t capacity_ = 0;
  bool sealed_ = false;
};

}  // namespace vitrail::cuda
