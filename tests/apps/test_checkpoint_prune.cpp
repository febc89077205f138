#include <gtest/gtest.h>

#include "apps/checkpoint_prune.hpp"

namespace vitrail {
namespace {

std::vector<ListedCheckpoint> complete(const std::vector<std::int64_t>& steps) {
  std::vector<ListedCheckpoint> all;
  for (const std::int64_t step : steps) {
    ListedCheckpoint one;
    one.step = step;
    one.state = ListedCheckpoint::State::complete;
    one.latest = all.empty();
    all.push_back(std::move(one));
  }
  return all;
}

TEST(PruneRule, KeepsTheNewest) {
  EXPECT_EQ(kept_by({.keep_last = 2}, complete({9, 7, 5, 3})), (std::vector<bool>{true, true, false, false}));
  EXPECT_EQ(kept_by({.keep_last = 9}, complete({9, 7})), (std::vector<bool>{true, true}));
}

TEST(PruneRule, KeepsMultiplesToo) {
  const PruneRule rule{.keep_last = 1, .keep_every = 100};
  EXPECT_EQ(kept_by(rule, complete({450, 400, 350, 200, 150})), (std::vector<bool>{true, true, false, true, false}));
}

TEST(PruneRule, NeverTakesTheLatest) {
  auto all = complete({9, 7, 5});
  all[0].latest = false;
  all[2].latest = true;
  EXPECT_EQ(kept_by({.keep_last = 1}, all), (std::vector<bool>{true, false, true}));
}

TEST(PruneRule, LeavesAloneAndDoesNotCountWhatIsNotComplete) {
  auto all = complete({9, 7, 5, 3});
  all[0].state = ListedCheckpoint::State::unfinished;
  all[0].latest = false;
  all[1].state = ListedCheckpoint::State::damaged;
  EXPECT_EQ(kept_by({.keep_last = 1}, all), (std::vector<bool>{true, true, true, false}));
}

}  // namespace
}  // namespace vitrail
