#pragma once
// A program started as a child, for the self-tests that run whole jobs.

#include <filesystem>
#include <string>
#include <vector>

#include <sys/types.h>

namespace vitrail {

class ChildProcess {
 public:
  /// Starts words[0], looked up in PATH; its output goes to `log`. `variables` ("NAME=value") are added to the
  /// environment. Error (usage) when the program is not there.
  ChildProcess(const std::vector<std::string>& words, const std::vector<std::string>& variables,
               const std::filesystem::path& log);
  ChildProcess(const ChildProcess&) = delete;
  ChildProcess& operator=(const ChildProcess&) = delete;
  /// Kills the child if it still runs.
  ~ChildProcess();

  /// Waits for the end: the exit code, or 128 + signal.
  int wait();
  [[nodiscard]] bool running();
  [[nodiscard]] pid_t pid() const noexcept { return pid_; }
  /// Processes whose parent is the child: the ranks, when the child is mpirun.
  [[nodiscard]] std::vector<pid_t> children() const;

 private:
  void ended(int status);

  pid_t pid_ = -1;
  bool running_ = false;
  int exit_code_ = 0;
};

/// The program `name` in the folder of the running one, with the same ending of its name: beside
/// vitrail-selftest-emulated stands vitrail-train-emulated.
std::filesystem::path program_beside(const std::string& name);

}  // namespace vitrail
