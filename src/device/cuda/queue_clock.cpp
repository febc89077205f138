#include "device/queue_clock.hpp"

#include <vector>

#include "device/cuda/check.hpp"
#include "device/cuda/cuda_device.hpp"
#include "device/cuda/handles.hpp"

namespace vitrail {

namespace cuda {
namespace {

UniqueEvent make_timed_event() {
  cudaEvent_t made = nullptr;
  check(cudaEventCreate(&made));
  return UniqueEvent(made);
}

class EventClock final : public QueueClock {
 public:
  explicit EventClock(StreamDevice& device) : device_(device) {}

  std::size_t read() override {
    if (taken_ == events_.size()) events_.push_back(make_timed_event());
    check(cudaEventRecord(events_[taken_].get(), device_.stream()));
    return taken_++;
  }
  [[nodiscard]] double seconds(std::size_t from, std::size_t to) const override {
    float milliseconds = 0;
    check(cudaEventElapsedTime(&milliseconds, events_.at(from).get(), events_.at(to).get()));
    return 1e-3 * static_cast<double>(milliseconds);
  }
  void reset() noexcept override { taken_ = 0; }

 private:
  StreamDevice& device_;
  std::vector<UniqueEvent> events_;  // those behind taken_ wait to be recorded again
  std::size_t taken_ = 0;
};

}  // namespace
}  // namespace cuda

std::unique_ptr<QueueClock> make_gpu_queue_clock(Device& device) {
  return std::make_unique<cuda::EventClock>(cuda::stream_device(device));
}

}  // namespace vitrail
