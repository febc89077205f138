#include "device/queue_clock.hpp"

#include <chrono>
#include <vector>

namespace vitrail {

namespace {

/// Of a device that is done when a call returns.
class HostClock final : public QueueClock {
 public:
  std::size_t read() override {
    readings_.push_back(std::chrono::steady_clock::now());
    return readings_.size() - 1;
  }
  [[nodiscard]] double seconds(std::size_t from, std::size_t to) const override {
    return std::chrono::duration<double>(readings_.at(to) - readings_.at(from)).count();
  }
  void reset() noexcept override { readings_.clear(); }

 private:
  std::vector<std::chrono::steady_clock::time_point> readings_;
};

}  // namespace

std::unique_ptr<QueueClock> make_queue_clock(Device& device) {
  if (device.kind() == DeviceKind::cuda) return make_gpu_queue_clock(device);
  return std::make_unique<HostClock>();
}

}  // namespace vitrail
