#include "apps/folder_probes.hpp"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <span>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/timer.hpp"

namespace vitrail {

namespace fs = std::filesystem;

namespace {

constexpr std::int64_t kStretch = std::int64_t{4} << 20;
constexpr std::size_t kRenamedBytes = 64 << 10;
constexpr char kFirstLetter = 'a';
constexpr char kLastLetter = 'Z';

FileDescriptor open_file(const fs::path& path, int flags) {
  return FileDescriptor(::open(path.c_str(), flags | O_CLOEXEC, 0644));
}

std::string reason() { return std::strerror(errno); }

bool write_all(int file, const void* data, std::size_t bytes) {
  const auto* at = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t done = ::write(file, at, bytes);
    if (done < 0 && errno == EINTR) continue;
    if (done <= 0) return false;
    at += done;
    bytes -= static_cast<std::size_t>(done);
  }
  return true;
}

struct flock whole_file(short kind) {
  struct flock range {};
  range.l_type = kind;
  range.l_whence = SEEK_SET;
  return range;
}

double seconds_of(const timespec& time) {
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

/// A stretch of a test file: words that depend on its place and the salt.
void fill(std::span<std::uint32_t> words, std::int64_t place, int salt) {
  auto state = static_cast<std::uint32_t>(place * 2654435761 + std::int64_t{salt} * 40503 + 1);
  for (std::uint32_t& word : words) word = state = state * 1664525 + 1013904223;
}

/// Seconds by which the file system's clock is before this process'.
std::optional<double> clock_ahead(int file) {
  timespec now{};
  struct stat status {};
  clock_gettime(CLOCK_REALTIME, &now);
  // No time given: the file system's own.
  if (futimens(file, nullptr) != 0 || fstat(file, &status) != 0) return std::nullopt;
  return seconds_of(status.st_mtim) - seconds_of(now);
}

SpeedSeen write_to_disk(const fs::path& path, std::int64_t bytes, int salt) {
  const FileDescriptor file = open_file(path, O_RDWR | O_CREAT | O_TRUNC);
  if (!file) return {.problem = "cannot make a file: " + reason()};
  std::vector<std::uint32_t> words(kStretch / 4);
  SpeedSeen seen;
  const Stopwatch clock;
  for (std::int64_t at = 0; at < bytes; at += kStretch) {
    fill(words, at, salt);
    if (!write_all(file.get(), words.data(), static_cast<std::size_t>(std::min(kStretch, bytes - at)))) {
      return {.problem = "cannot write: " + reason()};
    }
  }
  if (fsync(file.get()) != 0) return {.problem = "cannot force a file to disk (fsync): " + reason()};
  seen.write_s = clock.seconds();
  const auto ahead = clock_ahead(file.get());
  if (!ahead) return {.problem = "cannot tell when a file was written: " + reason()};
  seen.ahead_s = *ahead;
  (void)posix_fadvise(file.get(), 0, 0, POSIX_FADV_DONTNEED);
  return seen;
}

}  // namespace

std::optional<std::string> content_of(const fs::path& path) {
  const FileDescriptor file = open_file(path, O_RDONLY);
  if (!file) return std::nullopt;
  std::string content;
  std::string piece(kRenamedBytes, '\0');
  for (;;) {
    const ssize_t got = ::read(file.get(), piece.data(), piece.size());
    if (got < 0) return std::nullopt;
    if (got == 0) return content;
    content.append(piece, 0, static_cast<std::size_t>(got));
  }
}

bool write_small(const fs::path& path, const std::string& content) {
  const FileDescriptor file = open_file(path, O_WRONLY | O_CREAT | O_TRUNC);
  return file && write_all(file.get(), content.data(), content.size());
}

// --- rename ----------------------------------------------------------------------------------------------------------

bool write_first_to_be_replaced(const fs::path& path) {
  return write_small(path, std::string(kRenamedBytes, kFirstLetter));
}

std::string replace_again_and_again(const fs::path& path) {
  const fs::path fresh = path.string() + ".new";
  for (int i = 1; i <= kRenames; ++i) {
    const char letter = i == kRenames ? kLastLetter : static_cast<char>(kFirstLetter + i % 20);
    if (!write_small(fresh, std::string(kRenamedBytes, letter))) return reason();
    if (std::rename(fresh.c_str(), path.c_str()) != 0) return reason();
  }
  return "";
}

RenamesSeen watch_renames(const fs::path& path) {
  RenamesSeen seen;
  const Stopwatch clock;
  while (clock.seconds() < kFolderPatience_s) {
    const auto content = content_of(path);
    if (!content) {
      if (errno != ESTALE) ++seen.missing;  // a network file system says so of a file that has gone: fair
      continue;
    }
    ++seen.reads;
    const bool whole =
        content->size() == kRenamedBytes && content->find_first_not_of(content->front()) == std::string::npos;
    if (!whole) ++seen.torn;
    if (whole && content->front() == kLastLetter) break;
  }
  return seen;
}

// --- locks -----------------------------------------------------------------------------------------------------------

FileDescriptor take_lock(const fs::path& path, LockKind kind) {
  FileDescriptor file = open_file(path, O_RDWR | O_CREAT);
  if (!file) return file;
  struct flock range = whole_file(F_WRLCK);
  const int failed =
      kind == LockKind::posix ? fcntl(file.get(), F_SETLK, &range) : ::flock(file.get(), LOCK_EX | LOCK_NB);
  return failed != 0 ? FileDescriptor() : std::move(file);
}

LockSeen see_lock(const fs::path& path, LockKind kind) {
  const FileDescriptor file = open_file(path, O_RDWR);
  if (!file) return LockSeen::refused;
  if (kind == LockKind::posix) {
    struct flock range = whole_file(F_WRLCK);
    if (fcntl(file.get(), F_GETLK, &range) != 0) return LockSeen::refused;
    return range.l_type == F_UNLCK ? LockSeen::free : LockSeen::held;
  }
  if (::flock(file.get(), LOCK_EX | LOCK_NB) == 0) return LockSeen::free;
  return errno == EWOULDBLOCK ? LockSeen::held : LockSeen::refused;
}

LockSeen see_lock_from_a_child(const fs::path& path, LockKind kind) {
  const pid_t child = fork();
  if (child < 0) return LockSeen::refused;
  if (child == 0) _exit(static_cast<int>(see_lock(path, kind)));  // system calls alone: MPI's threads are not here
  int status = 0;
  while (waitpid(child, &status, 0) < 0) {
    if (errno != EINTR) return LockSeen::refused;
  }
  return WIFEXITED(status) ? static_cast<LockSeen>(WEXITSTATUS(status)) : LockSeen::refused;
}

// --- speed -----------------------------------------------------------------------------------------------------------

std::optional<double> sync_time(const fs::path& folder) {
  const FileDescriptor file = open_file(folder / "synced", O_WRONLY | O_CREAT | O_TRUNC);
  const FileDescriptor entries = open_file(folder, O_RDONLY | O_DIRECTORY);
  const Stopwatch clock;
  const bool done =
      file && entries && write_all(file.get(), "synced", 6) && fsync(file.get()) == 0 && fsync(entries.get()) == 0;
  if (!done) return std::nullopt;
  return clock.seconds();
}

SpeedSeen write_and_read(const fs::path& path, std::int64_t bytes, int salt) {
  SpeedSeen seen = write_to_disk(path, bytes, salt);
  if (!seen.problem.empty()) return seen;
  try {
    const FileBytes file(path, ExitCode::other);
    std::vector<std::uint32_t> words(kStretch / 4);
    std::vector<std::uint32_t> found(words.size());
    const Stopwatch clock;
    for (std::int64_t at = 0; at < bytes; at += kStretch) {
      const auto count = static_cast<std::size_t>(std::min(kStretch, bytes - at));
      file.read(at, std::as_writable_bytes(std::span(found)).first(count));
      fill(words, at, salt);
      if (std::memcmp(found.data(), words.data(), count) != 0) {
        return {.problem = "reads back other bytes than were written"};
      }
    }
    seen.read_s = clock.seconds();
  } catch (const Error& error) {
    return {.problem = "cannot read back what was written: " + error.fault().why};
  }
  return seen;
}

}  // namespace vitrail
