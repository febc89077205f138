#pragma once
// Tensors whose every byte tells where it comes from, for the tests of communicators.

#include <array>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <vector>

#include "device/device.hpp"

namespace vitrail::test {

inline constexpr std::array kDtypes{Dtype::f32, Dtype::f64, Dtype::c128, Dtype::bf16,
                                    Dtype::i32, Dtype::i64, Dtype::u8};
inline constexpr std::array<std::int64_t, 6> kSizes{0, 1, 7, 33, 257, 100'003};

/// Byte `at` of what rank `from` has for rank `to`. Communicators move bytes, so any pattern is a valid tensor.
inline std::byte pattern(int from, int to, std::int64_t at) {
  auto word = static_cast<std::uint64_t>(at) * 64 + static_cast<std::uint64_t>(from * 8 + to + 1);
  word *= 0x9E3779B97F4A7C15U;
  return static_cast<std::byte>(word >> 56);
}

/// Owns the memory of one tensor: of the host, or of a device.
class Block {
 public:
  Block(Dtype dtype, std::int64_t elements, Device* device = nullptr)
      : bytes_(static_cast<std::size_t>(elements * size_of(dtype)), std::byte{0xA5}),
        dtype_(dtype),
        elements_(elements),
        device_(device) {
    if (device_ != nullptr) memory_ = device_->allocate(std::ssize(bytes_));
    bring_to_device();
  }
  Block(const Block&) = delete;
  Block& operator=(const Block&) = delete;
  ~Block() {
    if (device_ != nullptr) device_->release(memory_, std::ssize(bytes_));
  }

  [[nodiscard]] Tensor tensor() {
    if (device_ == nullptr) return on_host();
    return {memory_, {elements_}, dtype_, device_->kind()};
  }
  /// Part `part` of `parts` holds what rank `from` has for rank `to`.
  void fill(int part, int parts, int from, int to) {
    each_byte(part, parts, [&](std::byte& byte, std::int64_t at) { byte = pattern(from, to, at); });
    bring_to_device();
  }
  [[nodiscard]] bool holds(int part, int parts, int from, int to) {
    if (device_ != nullptr) device_->copy(tensor(), on_host());
    bool same = true;
    each_byte(part, parts, [&](std::byte& byte, std::int64_t at) { same = same && byte == pattern(from, to, at); });
    return same;
  }

 private:
  [[nodiscard]] Tensor on_host() { return {bytes_.data(), {elements_}, dtype_}; }
  void bring_to_device() {
    if (device_ != nullptr) device_->copy(on_host(), tensor());
  }
  template <class Visit>
  void each_byte(int part, int parts, const Visit& visit) {
    const auto length = static_cast<std::int64_t>(bytes_.size()) / parts;
    for (std::int64_t at = 0; at < length; ++at) visit(bytes_[static_cast<std::size_t>(part * length + at)], at);
  }

  std::vector<std::byte> bytes_;
  Dtype dtype_;
  std::int64_t elements_;
  Device* device_;
  void* memory_ = nullptr;
};

}  // namespace vitrail::test
