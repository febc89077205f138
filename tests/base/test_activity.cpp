#include <chrono>
#include <new>
#include <thread>

#include <gtest/gtest.h>

#include "base/activity.hpp"
#include "tests/errors.hpp"

namespace vitrail::testing {
namespace {

TEST(Activity, BeginsBeforeTheFirstStep) {
  const Activity activity;
  EXPECT_EQ(text_of(activity.look()), "in the start, before the first step");
  EXPECT_EQ(activity.look().collectives, 0);
}

TEST(Activity, TellsStepLayerAndWhatIsDone) {
  Activity activity;
  activity.step(12);
  activity.layer(3);
  activity.begin("layernorm_forward");
  EXPECT_EQ(text_of(activity.look()), "in layernorm_forward, layer 3, step 12");
  activity.end();
  EXPECT_EQ(text_of(activity.look()), "after layernorm_forward, layer 3, step 12");
  activity.layer(Activity::kNoLayer);
  EXPECT_EQ(text_of(activity.look()), "after layernorm_forward, step 12");
}

TEST(Activity, CountsCollectivesAlone) {
  Activity activity;
  activity.begin("dropout");
  activity.begin_collective("barrier");
  activity.during("dropout", [] {});
  activity.during_collective("all_gather", [&] { EXPECT_EQ(activity.look().collectives, 2); });
  EXPECT_EQ(activity.look().collectives, 2);
}

TEST(Activity, EveryCallIsAMarkAndASignOfLifeChangesNothingElse) {
  Activity activity;
  activity.step(1);
  activity.begin("dropout");
  std::int64_t marks = activity.look().marks;
  const std::string before = text_of(activity.look());
  activity.alive();
  EXPECT_EQ(activity.look().marks, ++marks);
  EXPECT_EQ(text_of(activity.look()), before);
  activity.layer(0);
  EXPECT_EQ(activity.look().marks, ++marks);
  activity.end();
  EXPECT_EQ(activity.look().marks, ++marks);
  activity.step(2);
  EXPECT_EQ(activity.look().marks, ++marks);
  EXPECT_EQ(activity.look().marks, marks) << "looking is none";
}

TEST(Activity, KnowsHowLongNothingWasMarked) {
  Activity activity;
  activity.begin("dropout");
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_GE(activity.look().since_s, 0.02);
  activity.alive();
  EXPECT_LT(activity.look().since_s, 10);
}

TEST(Activity, AnErrorSaysWhatWasDoneInWhichLayer) {
  Activity activity;
  activity.layer(1);
  const auto failing = [] { fail(ExitCode::usage, {"a", "b", "c"}); };
  EXPECT_STREQ(error_of([&] { activity.during("mlp_forward", failing); }).what(), "a in mlp_forward, layer 1 (b). c");
  activity.layer(Activity::kNoLayer);
  const Error error = error_of([&] { activity.during_collective("barrier", failing); });
  EXPECT_STREQ(error.what(), "a in barrier (b). c");
  EXPECT_EQ(error.code(), ExitCode::usage);
  EXPECT_EQ(text_of(activity.look()), "in barrier, before the first step") << "it never ended";
}

TEST(Activity, MemoryThatRanOutIsAnErrorThatSaysWhere) {
  Activity activity;
  const Error error = error_of([&] { activity.during("mlp_forward", [] { throw std::bad_alloc(); }); });
  EXPECT_EQ(error.code(), ExitCode::usage);
  EXPECT_EQ(std::string(error.what()).find("out of memory in mlp_forward (an allocation failed)"), 0U) << error.what();
}

}  // namespace
}  // namespace vitrail::testing
