#pragma once
// The one way in which this back end uses several threads: numbered units of work whose cut depends on shapes alone,
// made by whichever thread is free. So no bit depends on the number of threads.

#include <algorithm>
#include <cstdint>
#include <exception>

#include <omp.h>

#include "ops/cpu/shared_units.hpp"

namespace vitrail::cpu {

/// Threads that a library's call finds, as long as this lives.
class OmpThreads {
 public:
  explicit OmpThreads(int threads) : before_(omp_get_max_threads()) { omp_set_num_threads(threads); }
  OmpThreads(const OmpThreads&) = delete;
  OmpThreads& operator=(const OmpThreads&) = delete;
  ~OmpThreads() { omp_set_num_threads(before_); }

 private:
  int before_;
};

/// Calls body(unit, thread) for unit = 0 .. units-1, thread in 0 .. threads-1. Inside, a library runs single-threaded:
/// a unit's bits must not depend on the size of the team. An exception reaches the caller after the last unit.
template <class Body>
void for_each_unit(int threads, std::int64_t units, const Body& body) {
  if (units <= 0) return;
  const int team = static_cast<int>(std::min<std::int64_t>(threads, units));
  SharedUnits shared(team, units);
  std::exception_ptr failure;
#pragma omp parallel num_threads(team)
  {
    omp_set_num_threads(1);  // of this implicit task only
    const int thread = omp_get_thread_num();
    shared.make(thread, [&](std::int64_t unit) {
      try {
        body(unit, thread);
      } catch (...) {
#pragma omp critical(vitrail_for_each_unit)
        failure = std::current_exception();
      }
    });
  }
  if (failure) std::rethrow_exception(failure);
}

/// The same over pieces [begin, end) of 0 .. count-1, `piece` elements each.
template <class Body>
void for_each_piece(int threads, std::int64_t count, std::int64_t piece, const Body& body) {
  for_each_unit(threads, (count + piece - 1) / piece,
                [&](std::int64_t unit, int) { body(unit * piece, std::min(count, (unit + 1) * piece)); });
}

}  // namespace vitrail::cpu
