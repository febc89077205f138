#include "apps/child_process.hpp"

#include <cerrno>
#include <cstring>
#include <fstream>

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.hpp"

namespace vitrail {

namespace {

std::vector<char*> pointers(std::vector<std::string>& texts) {
  std::vector<char*> all;
  for (std::string& one : texts) all.push_back(one.data());
  all.push_back(nullptr);
  return all;
}

}  // namespace

ChildProcess::ChildProcess(const std::vector<std::string>& words, const std::vector<std::string>& variables,
                           const std::filesystem::path& log) {
  std::vector<std::string> arguments = words;
  std::vector<std::string> environment = variables;  // first: the first of two equal names wins
  for (char** variable = environ; *variable != nullptr; ++variable) environment.emplace_back(*variable);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, log.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644);
  posix_spawn_file_actions_adddup2(&actions, STDOUT_FILENO, STDERR_FILENO);
  const int failed = posix_spawnp(&pid_, words.front().c_str(), &actions, nullptr, pointers(arguments).data(),
                                  pointers(environment).data());
  posix_spawn_file_actions_destroy(&actions);
  VITRAIL_EXPECT(failed == 0, ExitCode::usage, text("'", words.front(), "' cannot be started"), std::strerror(failed),
                 "Is it installed and in PATH?");
  running_ = true;
}

ChildProcess::~ChildProcess() {
  if (!running_) return;
  kill(pid_, SIGKILL);
  (void)wait();
}

void ChildProcess::ended(int status) {
  running_ = false;
  exit_code_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

int ChildProcess::wait() {
  while (running_) {
    int status = 0;
    if (waitpid(pid_, &status, 0) == pid_) {
      ended(status);
    } else if (errno != EINTR) {
      ended(1 << 8);
    }
  }
  return exit_code_;
}

bool ChildProcess::running() {
  int status = 0;
  if (running_ && waitpid(pid_, &status, WNOHANG) == pid_) ended(status);
  return running_;
}

std::vector<pid_t> ChildProcess::children() const {
  std::vector<pid_t> found;
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    const std::string name = entry.path().filename();
    if (name.find_first_not_of("0123456789") != std::string::npos) continue;
    std::ifstream stat(entry.path() / "stat");
    std::string line;
    std::getline(stat, line);
    // "pid (name) state ppid ...": the name may hold anything, the last parenthesis ends it.
    const std::size_t after = line.rfind(") ");
    if (after == std::string::npos) continue;
    if (std::atoi(line.c_str() + after + 4) == pid_) found.push_back(std::atoi(name.c_str()));
  }
  return found;
}

std::filesystem::path program_beside(const std::string& name) {
  const std::filesystem::path self = std::filesystem::read_symlink("/proc/self/exe");
  const std::string mine = self.filename();
  // "vitrail-selftest" has two words; what follows is the ending.
  const std::size_t ending = mine.find('-', mine.find('-') + 1);
  return self.parent_path() / (name + (ending == std::string::npos ? "" : mine.substr(ending)));
}

}  // namespace vitrail
