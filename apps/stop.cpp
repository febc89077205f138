#include "apps/stop.hpp"

#include <array>
#include <atomic>
#include <csignal>
#include <utility>

namespace vitrail {

namespace {

constexpr std::array kStopSignals = {SIGTERM, SIGUSR1, SIGUSR2, SIGHUP};
constexpr double kLookEveryS = 1;  // at a file system that thousands of ranks share
constexpr double kSafety = 1.5;    // steps and saves take longer now and then
constexpr double kLeavingS = 2;    // from the end of the save to the end of the process

// A signal handler can reach nothing but what is global.
std::atomic<int> first_signal{0};
static_assert(std::atomic<int>::is_always_lock_free);

extern "C" void note_signal(int number) {
  int none = 0;
  first_signal.compare_exchange_strong(none, number);
}

void set_handler(int number, void (*handler)(int)) noexcept {
  struct sigaction action = {};
  action.sa_handler = handler;  // NOLINT(cppcoreguidelines-pro-type-union-access)
  action.sa_flags = SA_RESTART;
  sigemptyset(&action.sa_mask);
  sigaction(number, &action, nullptr);
}

bool is_ignored(int number) noexcept {
  struct sigaction now = {};
  sigaction(number, nullptr, &now);
  return now.sa_handler == SIG_IGN;  // NOLINT(cppcoreguidelines-pro-type-union-access)
}

const char* name_of_signal(std::int64_t number) {
  switch (number) {
    case SIGTERM:
      return "SIGTERM";
    case SIGUSR1:
      return "SIGUSR1";
    case SIGUSR2:
      return "SIGUSR2";
    case SIGHUP:
      return "SIGHUP";
    default:
      return "a signal";
  }
}

}  // namespace

void catch_stop_signals() noexcept {
  for (const int number : kStopSignals) {
    if (number != SIGHUP || !is_ignored(number)) set_handler(number, note_signal);
  }
}

int stop_signal() noexcept { return first_signal.load(); }

void ignore_stop_signals() noexcept {
  for (const int number : kStopSignals) set_handler(number, SIG_IGN);
}

bool time_is_up(const TimeLeft& time) {
  const double needed =
      static_cast<double>(time.steps) * time.longest_step_s + static_cast<double>(time.saves) * time.save_s;
  return time.left_s < kSafety * needed + kLeavingS;
}

StopCauses::StopCauses(Communicator& world, const std::filesystem::path& run_dir, std::optional<EndOfJob> end,
                       double minutes_between_saves)
    : world_(world),
      file_(run_dir / "stop"),
      end_(std::move(end)),
      seconds_between_saves_(60 * minutes_between_saves) {}

Orders StopCauses::agree(Boundary boundary) {
  enum { signal, clock, file, save, failed, count };
  std::array<std::int64_t, count> found{};
  found[signal] = stop_signal();
  found[failed] = boundary.save_failed ? 1 : 0;
  if (world_.rank() == 0) {
    if (end_) {
      boundary.time.left_s = end_->unix_s - unix_now();
      found[clock] = time_is_up(boundary.time) ? 1 : 0;
    }
    found[file] = file_is_there() ? 1 : 0;
    found[save] = seconds_between_saves_ > 0 && since_save_.seconds() >= seconds_between_saves_ ? 1 : 0;
  }
  world_.all_max(found);
  Orders orders;
  orders.save = found[save] > 0;
  orders.save_failed = found[failed] > 0;
  if (found[signal] > 0) {
    orders.why = name_of_signal(found[signal]);
  } else if (found[clock] > 0) {
    orders.why = end_ ? text("the time is up at ", local_time(end_->unix_s), ", says ", end_->source) : "the clock";
  } else if (found[file] > 0) {
    orders.why = file_.string();
  }
  orders.stop = !orders.why.empty();
  return orders;
}

bool StopCauses::file_is_there() {
  if (looked_ && since_look_.seconds() < kLookEveryS) return false;
  looked_ = true;
  since_look_.restart();
  std::error_code failed;
  return std::filesystem::exists(file_, failed);
}

void StopCauses::obeyed() const {
  std::error_code missing;
  if (world_.rank() == 0) std::filesystem::remove(file_, missing);
}

}  // namespace vitrail
