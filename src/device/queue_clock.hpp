#pragma once
// When the work of a device's queue was done, by the device's own clock. For measurements.

#include <cstddef>
#include <memory>

#include "device/device.hpp"

namespace vitrail {

class QueueClock {
 public:
  QueueClock() = default;
  QueueClock(const QueueClock&) = delete;
  QueueClock& operator=(const QueueClock&) = delete;
  virtual ~QueueClock() = default;

  /// Takes a reading behind everything that was called before, without waiting for it. Readings count from 0. Not
  /// inside of work that is recorded as a graph.
  virtual std::size_t read() = 0;
  /// Between two readings, once everything before the later one is done (Device::synchronize). About half a microsecond
  /// fine.
  [[nodiscard]] virtual double seconds(std::size_t from, std::size_t to) const = 0;
  /// Forgets all readings: the next is number 0.
  virtual void reset() noexcept = 0;
};

/// `device` must outlive it.
std::unique_ptr<QueueClock> make_queue_clock(Device& device);
/// The same for a device of make_cuda_device alone.
std::unique_ptr<QueueClock> make_gpu_queue_clock(Device& device);

}  // namespace vitrail
