#pragma once
// What a rank is doing at this moment, written by the threads that do it and read by one that watches
// (base/watchdog.hpp) or by a report of an error. Nothing here waits or allocates: a mark costs a few stores.

#include <atomic>
#include <chrono>
#include <cstdint>
#include <string>

namespace vitrail {

class Activity {
 public:
  /// What was seen at one moment.
  struct Glance {
    std::int64_t step = 0;         ///< the optimisation step that is being computed, from 1; 0: none yet
    std::int64_t layer = -1;       ///< block of the model, from 0; -1: outside the blocks
    const char* what = "";         ///< verb, collective or phase
    std::int64_t collectives = 0;  ///< entered so far, on all communicators
    std::int64_t marks = 0;        ///< grows with every mark: equal numbers mean that nothing has moved
    double since_s = 0;            ///< seconds since the last mark
  };

  void step(std::int64_t step) noexcept;
  void layer(std::int64_t layer) noexcept;
  /// Begins a verb or phase. `what` outlives the program: a literal.
  void begin(const char* what) noexcept;
  /// The same for a collective, which is counted.
  void begin_collective(const char* what) noexcept;
  /// A sign of life from another thread (a save in the background) that changes nothing else.
  void alive() noexcept;

  [[nodiscard]] Glance look() const noexcept;

 private:
  void mark() noexcept;

  std::atomic<std::int64_t> step_{0};
  std::atomic<std::int64_t> layer_{-1};
  std::atomic<const char*> what_{"start"};
  std::atomic<std::int64_t> collectives_{0};
  std::atomic<std::int64_t> marks_{0};
  std::atomic<std::int64_t> marked_ns_{0};  // steady clock
};

}  // namespace vitrail
