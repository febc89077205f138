#pragma once
// A stack of its own for a piece of running code, switched to and from by the scheduler of a block. Address sanitizer
// is told of every switch.

#include <cstddef>

namespace vitrail::emulated {

/// Runs `entry(argument)` each time it is resumed while idle; `entry` may suspend in the middle.
class Fiber {
 public:
  using Entry = void (*)(void* argument);
  Fiber(Entry entry, void* argument);
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;
  ~Fiber();

  /// From the scheduler: goes on until the fiber suspends or `entry` returns.
  void resume();
  /// From inside: back to the scheduler, until resumed.
  void suspend();
  /// Whether `entry` returned, and the next resume() calls it anew.
  [[nodiscard]] bool is_idle() const noexcept { return idle_; }
  /// Forgets what runs in it; nothing on its stack is destroyed.
  void abandon();

 private:
  friend struct FiberStart;
  void run();
  void switch_to_scheduler();

  Entry entry_;
  void* argument_;
  std::byte* stack_ = nullptr;  ///< with its guard page below
  void* context_ = nullptr;     ///< where it stopped
  void* scheduler_ = nullptr;   ///< where the scheduler stopped
  bool idle_ = true;
  void* fake_stack_ = nullptr;  ///< of address sanitizer, as are the next
  const void* scheduler_stack_ = nullptr;
  std::size_t scheduler_stack_bytes_ = 0;
};

}  // namespace vitrail::emulated
