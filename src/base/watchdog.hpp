#pragma once
// Notices that a rank does nothing any more.

#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>

#include "base/activity.hpp"

namespace vitrail {

/// A thread of its own that looks at an Activity from time to time.
class Watchdog {
 public:
  struct Rules {
    double timeout_s = 1800;                ///< without a mark for so long, the rank hangs; must be positive
    double look_s = 1;                      ///< between two looks; no more than a quarter of the time above is used
    std::function<bool()> asked = nullptr;  ///< at every look: do the other ranks already say that the job hangs?
  };

  /// `on_hang` is called once, by the watching thread, with what was seen last: when there was no mark for
  /// rules.timeout_s, or rules.asked() says true. The time that the process was stopped (SIGSTOP, a suspended job) does
  /// not count. `activity` outlives this object. Neither function may throw.
  Watchdog(const Activity& activity, Rules rules, std::function<void(const Activity::Glance&)> on_hang);
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;
  /// Stops watching. Waits for on_hang when it has been called.
  ~Watchdog();

 private:
  void watch();
  // False when there is nothing to watch any more.
  bool wait_for_next_look();

  const Activity& activity_;
  Rules rules_;
  std::function<void(const Activity::Glance&)> on_hang_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool over_ = false;
  std::thread thread_;  // last: it uses the others
};

}  // namespace vitrail
