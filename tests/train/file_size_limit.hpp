#pragma once
// A full disk, also for root and without a file system of its own: this process cannot write files beyond a size.

#include <csignal>

#include <sys/resource.h>

// Of the leak sanitizer, where the build has it. NOLINTNEXTLINE(bugprone-reserved-identifier)
extern "C" void __lsan_disable() __attribute__((weak));
extern "C" void __lsan_enable() __attribute__((weak));  // NOLINT(bugprone-reserved-identifier)

namespace vitrail::testing {

/// While it lives, a write beyond `bytes` of any file fails (EFBIG). HDF5 loses the memory of a file that it could not
/// close; such memory is not counted as a leak of ours.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) : handler_(std::signal(SIGXFSZ, SIG_IGN)) {
    ::getrlimit(RLIMIT_FSIZE, &before_);
    const rlimit lower{bytes, before_.rlim_max};
    ::setrlimit(RLIMIT_FSIZE, &lower);
    if (__lsan_disable != nullptr) __lsan_disable();
  }
  FileSizeLimit(const FileSizeLimit&) = delete;
  FileSizeLimit& operator=(const FileSizeLimit&) = delete;
  ~FileSizeLimit() {
    if (__lsan_enable != nullptr) __lsan_enable();
    ::setrlimit(RLIMIT_FSIZE, &before_);
    std::signal(SIGXFSZ, handler_);
  }

 private:
  rlimit before_{};
  void (*handler_)(int);
};

}  // namespace vitrail::testing
