#pragma once
// How the threads of a team share out numbered units of work.

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

namespace vitrail::cpu {

/// Units 0 .. units-1 in runs, a run for each thread, or for a few of them: what a thread made in one verb it then
/// mostly finds in its own caches in the next. Whose run is done helps with the others.
class SharedUnits {
 public:
  SharedUnits(int threads, std::int64_t units) : threads_(threads), runs_(std::min(threads, kMostRuns)) {
    for (int i = 0; i < runs_; ++i) {
      Run& run = run_[static_cast<std::size_t>(i)];
      run.next.store(units * i / runs_, std::memory_order_relaxed);
      run.end = units * (i + 1) / runs_;
    }
  }
  /// work(unit) for one after the other, until none is left.
  template <class Work>
  void make(int thread, const Work& work) {
    const int own = static_cast<int>(std::int64_t{thread} * runs_ / threads_);
    for (int i = 0; i < runs_; ++i) {
      Run& run = run_[static_cast<std::size_t>((own + i) % runs_)];
      while (run.next.load(std::memory_order_relaxed) < run.end) {
        const std::int64_t unit = run.next.fetch_add(1, std::memory_order_relaxed);
        if (unit < run.end) work(unit);
      }
    }
  }

 private:
  static constexpr int kMostRuns = 16;
  struct alignas(64) Run {
    std::atomic<std::int64_t> next;
    std::int64_t end;
  };
  int threads_;
  int runs_;
  std::array<Run, kMostRuns> run_;
};

}  // namespace vitrail::cpu
