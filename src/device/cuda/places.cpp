#include "device/cuda/places.hpp"

#include <utility>

#include "device/cuda/check.hpp"

namespace vitrail::cuda {

UniqueEvent make_event() {
  cudaEvent_t made = nullptr;
  check(cudaEventCreateWithFlags(&made, cudaEventDisableTiming));
  return UniqueEvent(made);
}

std::uint64_t Places::record(cudaStream_t stream) {
  forget_reached();
  if (spare_.empty()) spare_.push_back(make_event());
  check(cudaEventRecord(spare_.back().get(), stream));
  open_.push_back({++last_, std::move(spare_.back())});
  spare_.pop_back();
  return last_;
}

void Places::wait(std::uint64_t place) {
  const cudaEvent_t event = event_of(place);
  if (event == nullptr) return;
  check(cudaEventSynchronize(event));
  while (!open_.empty() && open_.front().place <= place) forget_first();
}

void Places::hold(cudaStream_t stream, std::uint64_t place) {
  const cudaEvent_t event = event_of(place);
  if (event != nullptr) check(cudaStreamWaitEvent(stream, event, cudaEventWaitDefault));
}

// A training step makes a few places and waits for one, so the queue of events stays short.
void Places::forget_reached() {
  while (!open_.empty()) {
    const cudaError_t rc = cudaEventQuery(open_.front().event.get());
    if (rc == cudaErrorNotReady) {
      static_cast<void>(cudaGetLastError());  // not an error
      return;
    }
    check(rc);
    forget_first();
  }
}

void Places::forget_first() {
  spare_.push_back(std::move(open_.front().event));
  open_.pop_front();
}

cudaEvent_t Places::event_of(std::uint64_t place) const {
  VITRAIL_EXPECT(place <= last_, ExitCode::other, text("place ", place, " of a queue that has come to ", last_),
                 "only places that this device gave out can be waited for", "This is a bug");
  if (open_.empty() || place < open_.front().place) return nullptr;
  return open_[static_cast<std::size_t>(place - open_.front().place)].event.get();
}

}  // namespace vitrail::cuda
