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

/// How often each of the units is made by so many threads, and those after them.
std::vector<int> times_made(int threads, std::int64_t units) {
  SharedUnits shared(threads, units);
  std::vector<std::atomic<int>> times(static_cast<std::size_t>(units + threads));
  std::vector<std::thread> team;
  team.reserve(static_cast<std::size_t>(threads));
  for (int thread = 0; thread < threads; ++thread) {
    team.emplace_back(
        [&, thread] { shared.make(thread, [&](std::int64_t unit) { ++times[static_cast<std::size_t>(unit)]; }); });
  }
  for (std::thread& thread : team) thread.join();
  return {times.begin(), times.end()};
}

TEST(SharedUnits, AreEachMadeOnce) {
  for (const int threads : {1, 2, 3, 16, 40}) {
    for (const std::int64_t units : {0, 1, 2, 39, 1000}) {
      SCOPED_TRACE(testing::Message() << threads << " threads, " << units << " units");
      std::vector<int> expected(static_cast<std::size_t>(units), 1);
      expected.resize(static_cast<std::size_t>(units + threads));
      EXPECT_EQ(times_made(threads, units), expected);
    }
  }
}

// So many that threads meet at the ends of runs, again and again.
TEST(SharedUnits, AreNotMadeAgainWhereThreadsMeet) {
  constexpr int kThreads = 2;
  constexpr std::int64_t kUnits = 100'000;
  std::vector<int> expected(kUnits, 1);
  expected.resize(kUnits + kThreads);
  for (int i = 0; i < 100; ++i) ASSERT_TRUE(times_made(kThreads, kUnits) == expected) << "time " << i;
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
