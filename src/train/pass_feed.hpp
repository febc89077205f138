#pragma once
// How a pass gets its images. On a device that copies by itself the data of the next pass travels while this one runs:
// two host buffers and two device buffers, in turn. In host memory a pass is written where it is read.

#include <array>
#include <cstdint>
#include <memory>

#include "device/arena.hpp"
#include "device/host_tensor.hpp"
#include "model/activations.hpp"

namespace vitrail {

/// What a pass works on.
struct PassData {
  Tensor raw_images;   // u8 [I h w c]
  Tensor labels;       // i32 [I labels]
  Tensor mix_weights;  // [leaves B m], or none
};

class PassFeed {
 public:
  /// `acts`, as they are laid out, give one of the device buffers.
  PassFeed(Device& device, const Activations& acts);
  PassFeed(const PassFeed&) = delete;
  PassFeed& operator=(const PassFeed&) = delete;

  /// Host memory for the data of the next pass. Waits until what was sent from it two passes ago has arrived.
  [[nodiscard]] PassData next();
  /// Sends what next() gave and was filled: from here on acts hold it.
  void send(Activations& acts);
  /// After the last call that reads what was sent.
  void used();
  /// Passes sent so far.
  [[nodiscard]] std::int64_t sent() const noexcept { return sent_; }
  /// Gives acts the data of pass `number` again (the first was 0): one of the last two, in host memory the last. False
  /// when it is gone.
  bool show(std::int64_t number, Activations& acts) const;

 private:
  struct Buffer {
    PassData device;
    HostTensor raw_images, labels, mix_weights;
    Device::Place uploaded = 0;  ///< reached: the host's part may change
    Device::Place free = 0;      ///< reached: the device's part may change
  };
  [[nodiscard]] Buffer& buffer(std::int64_t pass) { return buffers_[static_cast<std::size_t>(pass % 2)]; }

  Device& device_;
  bool on_host_;
  std::unique_ptr<Arena> arena_;  // of the second device buffer
  std::array<Buffer, 2> buffers_;
  std::int64_t sent_ = 0;
};

}  // namespace vitrail
