#pragma once
// Kills a process at every instant at which a crash could make a difference: between any two system calls that change
// the file system.

#include <algorithm>
#include <csignal>
#include <iterator>

#include <fcntl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

namespace vitrail::testing {

enum class Ending { finished, killed, failed, cannot_trace };

inline bool changes_files(const __ptrace_syscall_info& stop) {
  constexpr unsigned long long calls[] = {
      SYS_write,     SYS_pwrite64, SYS_writev,   SYS_ftruncate, SYS_fsync,
      SYS_fdatasync, SYS_renameat, SYS_unlinkat, SYS_renameat2, SYS_mkdirat,
#ifdef SYS_rename  // the older calls, which newer machines do without
      SYS_rename,    SYS_unlink,   SYS_rmdir,    SYS_mkdir,
#endif
  };
  if (stop.entry.nr == SYS_openat) return (stop.entry.args[2] & (O_WRONLY | O_RDWR | O_CREAT)) != 0;
  return std::find(std::begin(calls), std::end(calls), stop.entry.nr) != std::end(calls);
}

/// Runs `work` in a child process and kills it (SIGKILL) when it is about to make its `call`-th system call, counted
/// from 0, that creates, writes, truncates, renames, removes or forces to disk, in any of its threads. `finished`: it
/// had fewer of them.
template <class Work>
Ending run_and_kill_at(int call, Work work) {
  const pid_t child = ::fork();
  if (child == 0) {
    if (::ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) != 0) ::_exit(99);
    std::raise(SIGSTOP);
    try {
      work();
    } catch (...) {
      ::_exit(1);
    }
    ::_exit(0);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  if (!WIFSTOPPED(status)) return Ending::cannot_trace;
  ::ptrace(PTRACE_SETOPTIONS, child, nullptr, PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL | PTRACE_O_TRACECLONE);
  pid_t stopped = child;
  for (int seen = 0;;) {
    ::ptrace(PTRACE_SYSCALL, stopped, nullptr, nullptr);
    stopped = ::waitpid(-1, &status, __WALL);
    if (stopped < 0) return Ending::cannot_trace;
    if (stopped == child && WIFEXITED(status)) {
      return WEXITSTATUS(status) == 0 ? Ending::finished : Ending::failed;
    }
    if (!WIFSTOPPED(status)) {
      if (stopped == child) return Ending::failed;
      continue;  // a thread has ended; to go on with it does nothing
    }
    __ptrace_syscall_info stop{};
    if (::ptrace(PTRACE_GET_SYSCALL_INFO, stopped, sizeof stop, &stop) <= 0) return Ending::cannot_trace;
    if (stop.op != PTRACE_SYSCALL_INFO_ENTRY || !changes_files(stop) || seen++ < call) continue;
    ::kill(child, SIGKILL);
    // The process is gone when all its threads have been waited for.
    do {
      stopped = ::waitpid(-1, &status, __WALL);
    } while (stopped > 0 && !(stopped == child && WIFSIGNALED(status)));
    return Ending::killed;
  }
}

}  // namespace vitrail::testing
