#include <csignal>
#include <fstream>

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include "apps/stop.hpp"
#include "tests/train/checkpoint_samples.hpp"

namespace vitrail {
namespace {

/// What `work` returns in a process of its own, or 128 + the signal that it died of.
template <class Work>
int in_a_child(Work work) {
  const pid_t child = ::fork();
  if (child == 0) ::_exit(work());
  int status = 0;
  ::waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

TEST(StopSignals, AreNotedAndEndNothing) {
  for (const int number : {SIGTERM, SIGUSR1, SIGUSR2, SIGHUP}) {
    EXPECT_EQ(in_a_child([&] {
                catch_stop_signals();
                if (stop_signal() != 0) return 99;
                std::raise(number);
                return stop_signal();
              }),
              number);
  }
}

TEST(StopSignals, TheFirstOneCounts) {
  EXPECT_EQ(in_a_child([] {
              catch_stop_signals();
              for (const int number : {SIGUSR2, SIGTERM, SIGHUP}) std::raise(number);
              return stop_signal();
            }),
            SIGUSR2);
}

TEST(StopSignals, OthersKeepTheirMeaning) {
  EXPECT_EQ(in_a_child([] {
              catch_stop_signals();
              std::raise(SIGINT);
              return 0;
            }),
            128 + SIGINT);
}

TEST(StopSignals, AHangupThatIsIgnoredStaysIgnored) {
  EXPECT_EQ(in_a_child([] {
              std::signal(SIGHUP, SIG_IGN);
              catch_stop_signals();
              std::raise(SIGHUP);
              return stop_signal();
            }),
            0);
}

TEST(StopSignals, AreIgnoredAtTheEnd) {
  EXPECT_EQ(in_a_child([] {
              ignore_stop_signals();
              for (const int number : {SIGTERM, SIGUSR1, SIGUSR2, SIGHUP}) std::raise(number);
              return stop_signal();
            }),
            0);
}

TEST(TheClock, LeavesTimeForAStepAndASave) {
  const TimeLeft plenty{.left_s = 100, .longest_step_s = 10, .steps = 1, .save_s = 20, .saves = 1};
  EXPECT_FALSE(time_is_up(plenty));
  TimeLeft time = plenty;
  time.left_s = 46;  // 1.5 (10 + 20) + 2 = 47
  EXPECT_TRUE(time_is_up(time));
  time.left_s = 48;
  EXPECT_FALSE(time_is_up(time));
  time.steps = 2;
  EXPECT_TRUE(time_is_up(time));
  time = plenty;
  time.left_s = 48;
  time.saves = 2;  // one is in flight, and another must follow
  EXPECT_TRUE(time_is_up(time));
  time = {.left_s = -5};
  EXPECT_TRUE(time_is_up(time));
}

class CausesToStop : public ::testing::Test {
 protected:
  CausesToStop() : world_(make_self_communicator()) {}
  StopCauses causes(std::optional<EndOfJob> end = {}, double minutes = 0) {
    return {*world_, folder_.path(), std::move(end), minutes};
  }
  testing::TemporaryFolder folder_;
  std::unique_ptr<Communicator> world_;
};

TEST_F(CausesToStop, ThereAreNoneByThemselves) {
  StopCauses none = causes();
  const Orders orders = none.agree({.time = {.longest_step_s = 1e9, .save_s = 1e9}});
  EXPECT_FALSE(orders.stop || orders.save || orders.save_failed);
}

TEST_F(CausesToStop, TheEndIsNear) {
  StopCauses later = causes(EndOfJob{unix_now() + 1000, "squeue"});
  EXPECT_FALSE(later.agree({.time = {.longest_step_s = 1, .save_s = 1}}).stop);
  const Orders orders = later.agree({.time = {.longest_step_s = 1, .save_s = 1000}});
  EXPECT_TRUE(orders.stop);
  EXPECT_NE(orders.why.find("says squeue"), std::string::npos) << orders.why;
}

TEST_F(CausesToStop, AFileThatIsRemovedWhenItIsObeyed) {
  const auto file = folder_.path() / "stop";
  std::ofstream(file) << "";
  StopCauses causes_now = causes();
  const Orders orders = causes_now.agree({});
  EXPECT_TRUE(orders.stop);
  EXPECT_EQ(orders.why, file.string());
  EXPECT_TRUE(std::filesystem::exists(file));
  causes_now.obeyed();
  EXPECT_FALSE(std::filesystem::exists(file));
}

TEST_F(CausesToStop, ASaveIsDueByTheClock) {
  StopCauses often = causes({}, 1e-9);
  EXPECT_TRUE(often.agree({}).save);
  StopCauses seldom = causes({}, 1000);
  EXPECT_FALSE(seldom.agree({}).save);
}

TEST_F(CausesToStop, AFailedSaveIsPassedOn) {
  StopCauses some = causes();
  const Orders orders = some.agree({.save_failed = true, .time = {}});
  EXPECT_TRUE(orders.save_failed);
  EXPECT_FALSE(orders.stop);
}

}  // namespace
}  // namespace vitrail
