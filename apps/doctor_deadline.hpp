#pragma once
// vitrail-doctor must end even where a check does not: on a file system that hangs, or when a rank does not come.

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <string>
#include <thread>

namespace vitrail {

class Deadline {
 public:
  /// If it still exists after so many seconds: prints which check has not ended and ends all ranks (exit code 2).
  Deadline(double seconds, int rank, std::string host);
  Deadline(const Deadline&) = delete;
  Deadline& operator=(const Deadline&) = delete;
  ~Deadline();

  /// What is being done from now on; the text must live on.
  void now(const char* check) noexcept { check_ = check; }

 private:
  void wait(double seconds);

  int rank_;
  std::string host_;
  std::atomic<const char*> check_{"start"};
  std::mutex mutex_;
  std::condition_variable ended_;
  bool over_ = false;
  std::thread thread_;  // last: it uses the others
};

}  // namespace vitrail
