#pragma once
// Bytes that one thread has and another one asks for, without a copy in between: the giver waits until its stretch is
// used up. Either side may leave at any time, and the other one does not wait for it then.

#include <algorithm>
#include <condition_variable>
#include <cstddef>
#include <cstring>
#include <mutex>
#include <span>

namespace vitrail {

class Handover {
 public:
  /// False when the taker has left before it had taken everything.
  bool give(std::span<const std::byte> stretch) {
    std::unique_lock lock(mutex_);
    stretch_ = stretch;
    changed_.notify_all();
    changed_.wait(lock, [this] { return stretch_.empty() || taker_has_left_; });
    const bool taken = stretch_.empty();
    stretch_ = {};
    return taken;
  }

  /// Up to `wanted` (1 or more) of the next bytes; 0 only when the giver has left.
  std::size_t take(void* to, std::size_t wanted) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return !stretch_.empty() || giver_has_left_; });
    const std::size_t count = std::min(wanted, stretch_.size());
    if (count > 0) std::memcpy(to, stretch_.data(), count);
    stretch_ = stretch_.subspan(count);
    if (stretch_.empty()) changed_.notify_all();
    return count;
  }

  void giver_leaves() { leave(giver_has_left_); }
  void taker_leaves() { leave(taker_has_left_); }

 private:
  void leave(bool& has_left) {
    const std::lock_guard lock(mutex_);
    has_left = true;
    changed_.notify_all();
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::span<const std::byte> stretch_;
  bool giver_has_left_ = false;
  bool taker_has_left_ = false;
};

}  // namespace vitrail
