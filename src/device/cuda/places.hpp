#pragma once
// The places of a queue (Device::place) as events.

#include <cstdint>
#include <deque>
#include <vector>

#include "device/cuda/handles.hpp"

namespace vitrail::cuda {

class Places {
 public:
  /// Records an event behind all work in `stream`.
  std::uint64_t record(cudaStream_t stream);
  /// Returns when everything before the place is done. Error (other) with what earlier work failed of, and for a
  /// place that was never recorded. Place 0 lies before everything.
  void wait(std::uint64_t place);
  /// Work that is put into `stream` later begins when the place is reached. The host does not wait.
  void hold(cudaStream_t stream, std::uint64_t place);

 private:
  struct Mark {
    std::uint64_t place;
    UniqueEvent event;
  };
  void forget_reached();
  void forget_first();
  // The event of a place, or of the next one that still has its event; null when the place is behind us.
  cudaEvent_t event_of(std::uint64_t place) const;

  std::uint64_t last_ = 0;
  std::deque<Mark> open_;           // in the order of the queue; those before the first were reached
  std::vector<UniqueEvent> spare_;  // to be recorded again
};

}  // namespace vitrail::cuda
