#include "apps/doctor_deadline.hpp"

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <utility>

#include "base/error.hpp"
#include "comm/process.hpp"

namespace vitrail {

Deadline::Deadline(double seconds, int rank, std::string host)
    : rank_(rank), host_(std::move(host)), thread_([this, seconds] { wait(seconds); }) {}

Deadline::~Deadline() {
  {
    const std::lock_guard lock(mutex_);
    over_ = true;
  }
  ended_.notify_all();
  thread_.join();
}

void Deadline::wait(double seconds) {
  std::unique_lock lock(mutex_);
  if (ended_.wait_for(lock, std::chrono::duration<double>(seconds), [this] { return over_; })) return;
  const std::string line =
      text("bad   ", check_.load(), ": rank ", rank_, " on ", host_, " is still in this check after ", seconds,
           " s. A file system or a network that hangs? --time-limit gives more time\n");
  std::fflush(stdout);
  std::fwrite(line.data(), 1, line.size(), stdout);
  std::fflush(stdout);
  // The other ranks say where they are, too.
  std::this_thread::sleep_for(std::chrono::milliseconds(500));
  abort_all_ranks(static_cast<int>(ExitCode::usage));
  std::_Exit(static_cast<int>(ExitCode::usage));
}

}  // namespace vitrail
