#pragma once
// Scratch memory of one back end: one block that grows until the back end is sealed.

#include <cstdint>
#include <memory>

#include "device/device.hpp"

namespace vitrail::cpu {

class Workspace {
 public:
  Workspace() = default;
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;
  ~Workspace();

  /// `count` floats, 64-byte aligned, not initialised, valid until the next call. Error when it would have to grow
  /// after seal(), and Error (usage) when there is not enough memory.
  float* floats(std::int64_t count);
  void seal() noexcept { sealed_ = true; }
  [[nodiscard]] std::int64_t bytes() const noexcept { return capacity_ * std::int64_t{sizeof(float)}; }

 private:
  void release() noexcept;

  std::unique_ptr<Device> host_ = make_cpu_device();  // gives huge pages
  void* block_ = nullptr;
  std::int64_t capacity_ = 0;
  bool sealed_ = false;
};

/// Rounded up to whole cache lines, so that the pieces of a workspace start aligned.
constexpr std::int64_t aligned_floats(std::int64_t count) { return (count + 15) / 16 * 16; }

}  // namespace vitrail::cpu
