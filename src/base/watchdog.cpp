#include "base/watchdog.hpp"

#include <algorithm>
#include <chrono>
#include <utility>

namespace vitrail {

Watchdog::Watchdog(const Activity& activity, Rules rules, std::function<void(const Activity::Glance&)> on_hang)
    : activity_(activity), rules_(std::move(rules)), on_hang_(std::move(on_hang)) {
  VITRAIL_EXPECT(rules_.timeout_s > 0 && rules_.look_s > 0, ExitCode::other,
                 text("a watchdog that looks every ", rules_.look_s, " s for ", rules_.timeout_s, " s"),
                 "both must be positive", "This is a bug");
  rules_.look_s = std::min(rules_.look_s, rules_.timeout_s / 4);
  thread_ = std::thread([this] { watch(); });
}

Watchdog::~Watchdog() {
  {
    const std::lock_guard lock(mutex_);
    over_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

bool Watchdog::wait_for_next_look() {
  std::unique_lock lock(mutex_);
  return !changed_.wait_for(lock, std::chrono::duration<double>(rules_.look_s), [this] { return over_; });
}

void Watchdog::watch() {
  // Looks are counted, and not the clock: it goes on while the process is stopped.
  double still_s = 0;
  std::int64_t marks = activity_.look().marks;
  while (wait_for_next_look()) {
    const Activity::Glance seen = activity_.look();
    still_s = seen.marks == marks ? still_s + rules_.look_s : 0;
    marks = seen.marks;
    if (still_s < rules_.timeout_s && !(rules_.asked && rules_.asked())) continue;
    on_hang_(seen);
    return;
  }
}

}  // namespace vitrail
