#pragma once
// One block of memory of one purpose (parameters, gradients, activations ...), cut into tensors from the front.
// An Arena made without a device only measures: its tensors have no data, and bytes() says what a real one needs. So
// the code that lays out memory is written once and run twice.

#include <cstdint>
#include <string>

#include "device/device.hpp"

namespace vitrail {

class Arena {
 public:
  /// A measuring arena.
  explicit Arena(std::string name) : name_(std::move(name)) {}
  /// A real one of exactly `bytes`, all 0 (on the host not yet touched). Error (usage), with the arena's name in it,
  /// when the device has not enough.
  Arena(std::string name, Device& device, std::int64_t bytes);
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;
  ~Arena();

  /// The next tensor, 64-byte aligned. Error (other) when a real arena is full: layout and measurement disagree.
  Tensor allocate(Dtype dtype, Shape shape);
  /// Bytes handed out so far, alignment included.
  [[nodiscard]] std::int64_t bytes() const noexcept { return used_bytes_; }
  [[nodiscard]] const std::string& name() const noexcept { return name_; }

 private:
  std::string name_;
  Device* device_ = nullptr;
  std::byte* memory_ = nullptr;
  std::int64_t capacity_bytes_ = 0;
  std::int64_t used_bytes_ = 0;
};

}  // namespace vitrail
