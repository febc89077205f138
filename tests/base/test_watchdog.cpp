#include <atomic>
#include <chrono>
#include <string>
#include <thread>

#include <gtest/gtest.h>

#include "base/watchdog.hpp"
#include "tests/errors.hpp"

namespace vitrail::testing {
namespace {

using std::chrono::milliseconds;

/// What a watchdog said; read it when that is gone.
struct Said {
  std::atomic<int> hangs{0};
  std::string where;
  [[nodiscard]] auto listener() {
    return [this](const Activity::Glance& seen) {
      where = text_of(seen);
      ++hangs;
    };
  }
  void wait() const {
    for (int i = 0; i < 2000 && hangs == 0; ++i) std::this_thread::sleep_for(milliseconds(5));
  }
};

TEST(Watchdog, NoticesThatNothingIsMarkedAndSaysWhatWasLast) {
  Activity activity;
  activity.step(7);
  activity.begin_collective("all_gather");
  Said said;
  const auto begun = std::chrono::steady_clock::now();
  {
    const Watchdog dog(activity, {.timeout_s = 0.2}, said.listener());
    said.wait();
  }
  EXPECT_EQ(said.hangs, 1) << "once";
  EXPECT_EQ(said.where, "in all_gather, step 7");
  EXPECT_GE(std::chrono::steady_clock::now() - begun, milliseconds(200));
}

TEST(Watchdog, IsQuietWhileThereAreMarks) {
  Activity activity;
  Said said;
  {
    const Watchdog dog(activity, {.timeout_s = 0.4}, said.listener());
    for (int i = 0; i < 60; ++i) {
      std::this_thread::sleep_for(milliseconds(10));
      activity.alive();
    }
  }
  EXPECT_EQ(said.hangs, 0);
}

TEST(Watchdog, DoesNotWaitForItsNextLookToStop) {
  const Activity activity;
  Said said;
  const auto begun = std::chrono::steady_clock::now();
  { const Watchdog dog(activity, {.timeout_s = 1e6, .look_s = 1e5}, said.listener()); }
  EXPECT_LT(std::chrono::steady_clock::now() - begun, std::chrono::seconds(20));
  EXPECT_EQ(said.hangs, 0);
}

TEST(Watchdog, SpeaksAlsoWhenAsked) {
  const Activity activity;
  Said said;
  std::atomic<bool> asked{false};
  {
    const Watchdog dog(activity, {.timeout_s = 1e6, .look_s = 0.01, .asked = [&] { return asked.load(); }},
                       said.listener());
    std::this_thread::sleep_for(milliseconds(50));
    EXPECT_EQ(said.hangs, 0);
    asked = true;
    said.wait();
  }
  EXPECT_EQ(said.hangs, 1);
}

TEST(Watchdog, NeedsATime) {
  const Activity activity;
  EXPECT_EQ(error_of([&] { const Watchdog dog(activity, {.timeout_s = 0}, [](const auto&) {}); }).code(),
            ExitCode::other);
}

}  // namespace
}  // namespace vitrail::testing
