#pragma once
// What a rank is doing at this moment, written by the threads that do it and read by one that watches
// (base/watchdog.hpp) or by a report of an error. Nothing here waits or allocates: a mark costs a few stores and a look
// at the clock.

#include <atomic>
#include <cstdint>
#include <string>

#include "base/error.hpp"

namespace vitrail {

class Activity {
 public:
  /// What was seen at one moment.
  struct Glance {
    std::int64_t step = 0;         ///< the optimisation step that is being computed, from 1; 0: none yet
    std::int64_t layer = -1;       ///< block of the model, from 0; kNoLayer: outside the blocks
    const char* what = "";         ///< verb, collective or phase, the last that was begun
    bool inside = false;           ///< it has not ended
    std::int64_t collectives = 0;  ///< entered so far, on all communicators
    std::int64_t marks = 0;        ///< grows with every mark: equal numbers mean that nothing has moved
    double since_s = 0;            ///< seconds since the last mark
  };

  static constexpr std::int64_t kNoLayer = -1;

  void step(std::int64_t step) noexcept;
  void layer(std::int64_t layer) noexcept;
  /// Begins a verb or phase. `what` outlives the program: a literal.
  void begin(const char* what) noexcept;
  /// The same for a collective, which is counted.
  void begin_collective(const char* what) noexcept;
  /// What was begun last is done.
  void end() noexcept;
  /// A sign of life from another thread (a save in the background) that changes nothing else.
  void alive() noexcept;

  /// Calls `work` between begin(what) and end(). An Error that leaves it says in what, and in which layer; so does the
  /// Error (usage) that takes the place of std::bad_alloc.
  template <class Work>
  void during(const char* what, const Work& work);
  /// The same for a collective.
  template <class Work>
  void during_collective(const char* what, const Work& work);

  [[nodiscard]] Glance look() const noexcept;

 private:
  void mark() noexcept;
  [[noreturn]] void rethrow(const char* what) const;
  template <class Work>
  void finish(const char* what, const Work& work);

  std::atomic<std::int64_t> step_{0};
  std::atomic<std::int64_t> layer_{kNoLayer};
  std::atomic<const char*> what_{"the start"};
  std::atomic<bool> inside_{true};
  std::atomic<std::int64_t> collectives_{0};
  std::atomic<std::int64_t> marks_{0};
  std::atomic<std::int64_t> marked_ns_{0};  // steady clock
};

/// "in all_to_all, layer 3, step 12"; "after layernorm_forward, step 12" when that has ended; without a step:
/// "before the first step".
std::string text_of(const Activity::Glance& glance);

template <class Work>
void Activity::finish(const char* what, const Work& work) {
  try {
    work();
  } catch (...) {
    rethrow(what);
  }
  end();
}

template <class Work>
void Activity::during(const char* what, const Work& work) {
  begin(what);
  finish(what, work);
}

template <class Work>
void Activity::during_collective(const char* what, const Work& work) {
  begin_collective(what);
  finish(what, work);
}

}  // namespace vitrail
