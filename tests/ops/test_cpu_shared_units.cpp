// Units of work that threads share.

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "ops/cpu/shared_units.hpp"

namespace vitrail::cpu {
namespace {

std::vector<std::int64_t> made_alone(int threads, std::int64_t units, int thread) {
  SharedUnits shared(threads, units);
  std::vector<std::int64_t> made;
  shared.make(thread, [&](std::int64_t unit) { made.push_back(unit); });
  return made;
}

TEST(SharedUnits, AreEachMadeOnce) {
  for (const int threads : {1, 2, 3, 16, 40}) {
    for (const std::int64_t units : {0, 1, 2, 39, 1000}) {
      SCOPED_TRACE(testing::Message() << threads << " threads, " << units << " units");
      SharedUnits shared(threads, units);
      std::vector<std::atomic<int>> times(static_cast<std::size_t>(units));
      std::vector<std::thread> team;
      team.reserve(static_cast<std::size_t>(threads));
      for (int thread = 0; thread < threads; ++thread) {
        team.emplace_back(
            [&, thread] { shared.make(thread, [&](std::int64_t unit) { ++times[static_cast<std::size_t>(unit)]; }); });
      }
      for (std::thread& thread : team) thread.join();
      EXPECT_TRUE(std::all_of(times.begin(), times.end(), [](const std::atomic<int>& n) { return n == 1; }));
    }
  }
}

// Nobody else comes: one thread makes all, its own first.
TEST(SharedUnits, OfThreadsThatAreLateAreMadeByOthers) {
  const std::vector<std::int64_t> expected{6, 7, 8, 9, 0, 1, 2, 3, 4, 5};
  std::vector<std::int64_t> made = made_alone(3, 10, 2);
  EXPECT_EQ(made, expected);
  for (const int thread : {0, 17, 39}) {
    made = made_alone(40, 1000, thread);
    std::vector<std::int64_t> all(1000);
    std::iota(all.begin(), all.end(), 0);
    EXPECT_EQ(made.front(), thread * 16 / 40 * 1000 / 16) << "thread " << thread;
    std::sort(made.begin(), made.end());
    EXPECT_EQ(made, all);
  }
}

}  // namespace
}  // namespace vitrail::cpu
