#include "apps/doctor_files.hpp"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <thread>

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "apps/bench_measure.hpp"
#include "apps/checkpoint_listing.hpp"
#include "apps/progress.hpp"
#include "base/file.hpp"
#include "base/timer.hpp"
#include "base/unique_handle.hpp"

namespace vitrail {

namespace fs = std::filesystem;

namespace {

constexpr std::int64_t kGiB = std::int64_t{1} << 30;
constexpr std::int64_t kStretch = std::int64_t{4} << 20;
constexpr int kSyncs = 10;
constexpr int kRenames = 200;
constexpr std::int64_t kRenamedBytes = 64 << 10;
constexpr double kPatience_s = 10;  // network file systems show new files to other nodes after seconds

using Fd = UniqueHandle<DescriptorTraits>;

Fd open_file(const fs::path& path, int flags) { return Fd(::open(path.c_str(), flags | O_CLOEXEC, 0644)); }

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

/// A small file as a whole; nothing if it cannot be read.
std::optional<std::string> content_of(const fs::path& path) {
  const Fd file = open_file(path, O_RDONLY);
  if (file.get() < 0) return std::nullopt;
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
  const Fd file = open_file(path, O_WRONLY | O_CREAT | O_TRUNC);
  return file.get() >= 0 && write_all(file.get(), content.data(), content.size());
}

struct flock whole_file(short kind) {
  struct flock range {};
  range.l_type = kind;
  range.l_whence = SEEK_SET;
  return range;
}

/// What this process sees of a lock that another one holds.
LockSeen see_posix_lock(const fs::path& path) {
  const Fd file = open_file(path, O_RDWR);
  struct flock range = whole_file(F_WRLCK);
  if (file.get() < 0 || fcntl(file.get(), F_GETLK, &range) != 0) return LockSeen::refused;
  return range.l_type == F_UNLCK ? LockSeen::free : LockSeen::held;
}

LockSeen see_flock(const fs::path& path) {
  const Fd file = open_file(path, O_RDWR);
  if (file.get() < 0) return LockSeen::refused;
  if (flock(file.get(), LOCK_EX | LOCK_NB) == 0) return LockSeen::free;
  return errno == EWOULDBLOCK ? LockSeen::held : LockSeen::refused;
}

/// The same from a child of this process: locks are between processes.
template <class See>
LockSeen seen_by_a_child(const See& see) {
  const pid_t child = fork();
  if (child < 0) return LockSeen::refused;
  if (child == 0) _exit(static_cast<int>(see()));  // system calls alone: the threads of MPI are not here
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  return WIFEXITED(status) ? static_cast<LockSeen>(WEXITSTATUS(status)) : LockSeen::refused;
}

/// What a reader saw of a file that is replaced again and again by rename.
struct RenamesSeen {
  std::int64_t reads = 0;
  std::int64_t torn = 0;     ///< neither the old nor the new content
  std::int64_t missing = 0;  ///< no file of the name
};

/// Reads until the content is all 'Z', or time is over.
RenamesSeen watch_renames(const fs::path& path) {
  RenamesSeen seen;
  const Stopwatch clock;
  while (clock.seconds() < kPatience_s) {
    const auto content = content_of(path);
    if (!content) {
      if (errno != ESTALE) ++seen.missing;  // a network file system says so of a file that has gone: fair
      continue;
    }
    ++seen.reads;
    const bool whole =
        std::ssize(*content) == kRenamedBytes && content->find_first_not_of(content->front()) == std::string::npos;
    if (!whole) ++seen.torn;
    if (whole && content->front() == 'Z') break;
  }
  return seen;
}

/// Replaces the file by others of one letter each; the last is 'Z'. Why it failed; empty: it did not.
std::string replace_again_and_again(const fs::path& path) {
  const fs::path fresh = path.string() + ".new";
  for (int i = 0; i <= kRenames; ++i) {
    const char letter = i == kRenames ? 'Z' : static_cast<char>('a' + i % 20);
    if (!write_small(fresh, std::string(kRenamedBytes, letter))) return reason();
    if (std::rename(fresh.c_str(), path.c_str()) != 0) return reason();
  }
  return "";
}

double realtime_s(const timespec& time) {
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

struct SpeedSeen {
  double write_s = 0;
  double read_s = 0;
  double ahead_s = 0;  ///< of the file system's clock
  std::string problem;
};

/// Writes to disk, lets the system forget, reads back and compares.
SpeedSeen write_and_read(const fs::path& path, std::int64_t bytes, int rank) {
  SpeedSeen seen;
  std::vector<std::uint32_t> words(kStretch / 4);
  const auto fill = [&](std::int64_t stretch) {
    auto state = static_cast<std::uint32_t>(stretch * 2654435761 + std::int64_t{rank} * 40503 + 1);
    for (std::uint32_t& word : words) word = state = state * 1664525 + 1013904223;
  };
  {
    const Fd file = open_file(path, O_RDWR | O_CREAT | O_TRUNC);
    if (file.get() < 0) return {.problem = "cannot make a file: " + reason()};
    const Stopwatch clock;
    for (std::int64_t at = 0; at < bytes; at += kStretch) {
      fill(at);
      if (!write_all(file.get(), words.data(), static_cast<std::size_t>(std::min(kStretch, bytes - at)))) {
        return {.problem = "cannot write: " + reason()};
      }
    }
    if (fsync(file.get()) != 0) return {.problem = "cannot force a file to disk (fsync): " + reason()};
    seen.write_s = clock.seconds();
    timespec now{};
    struct stat status {};
    clock_gettime(CLOCK_REALTIME, &now);
    // A write later than the one that is to be timed: mtime is of the last.
    if (::pwrite(file.get(), words.data(), 0, 0) < 0 || futimens(file.get(), nullptr) != 0 ||
        fstat(file.get(), &status) != 0) {
      return {.problem = "cannot tell when a file was written: " + reason()};
    }
    seen.ahead_s = realtime_s(status.st_mtim) - realtime_s(now);
    (void)posix_fadvise(file.get(), 0, 0, POSIX_FADV_DONTNEED);
  }
  const Fd file = open_file(path, O_RDONLY);
  std::vector<std::uint32_t> found(words.size());
  const Stopwatch clock;
  for (std::int64_t at = 0; at < bytes; at += kStretch) {
    const auto count = static_cast<std::size_t>(std::min(kStretch, bytes - at));
    std::size_t done = 0;
    while (done < count) {
      const ssize_t got = ::read(file.get(), reinterpret_cast<char*>(found.data()) + done, count - done);
      if (got <= 0) return {.problem = "cannot read back what was written: " + (got < 0 ? reason() : "it is shorter")};
      done += static_cast<std::size_t>(got);
    }
    fill(at);
    if (std::memcmp(found.data(), words.data(), count) != 0)
      return {.problem = "reads back other bytes than were written"};
  }
  seen.read_s = clock.seconds();
  return seen;
}

std::vector<double> of_all_ranks(Communicator& world, double mine) {
  std::vector<double> all(static_cast<std::size_t>(world.size()));
  world.all_gather(ConstTensor(&mine, {1}, Dtype::f64), Tensor(all.data(), {world.size()}, Dtype::f64));
  return all;
}

/// The checks of one folder. Every rank goes through all of them, whatever it finds: they are collective.
class FolderCheck {
 public:
  FolderCheck(Communicator& world, const std::vector<std::string>& hosts, fs::path folder)
      : world_(world), host_(hosts.at(static_cast<std::size_t>(world.rank()))), folder_(std::move(folder)) {}

  Findings findings;

  /// Makes the folder for the rest. False on every rank if there is none that all see.
  bool enter();
  void look_at_space();
  void look_at_renames();
  void look_at_syncs();
  void look_at_locks();
  void look_at_speed(std::int64_t bytes);
  void leave();

 private:
  [[nodiscard]] bool first() const { return world_.rank() == 0; }
  void add(Finding finding) { findings.push_back(std::move(finding)); }
  /// Of all ranks together: rank 0 says it.
  void add_of_job(Finding finding) {
    if (first()) findings.push_back(of_job(std::move(finding)));
  }
  /// Whether all ranks agree that all is well. Collective.
  bool all(bool well) {
    std::int64_t value = well ? 1 : 0;
    world_.all_min({&value, 1});
    return value == 1;
  }
  void look_at_lock(const std::string& kind, const std::string& name, bool (*take)(int),
                    LockSeen (*see)(const fs::path&));

  Communicator& world_;
  std::string host_;
  fs::path folder_;
  fs::path own_;  ///< in which everything happens
};

bool FolderCheck::enter() {
  std::error_code failure;
  const bool there = fs::is_directory(folder_, failure);
  if (!there) {
    add(bad("run-dir", text(host_, " sees no folder '", folder_.string(), "'", failure ? ": " + failure.message() : ""),
            "Make it on a file system that all nodes share"));
  }
  if (!all(there)) return false;

  std::string made;
  if (first()) {
    std::string pattern = (folder_ / ".vitrail-doctor-XXXXXX").string();
    if (mkdtemp(pattern.data()) != nullptr) {
      made = fs::path(pattern).filename().string();
      if (!write_small(folder_ / made / "token", made)) {
        add(bad("run-dir", text("cannot write in '", folder_.string(), "': ", reason()),
                "Is the disk or a quota full?"));
        fs::remove_all(folder_ / made, failure);
        made.clear();
      }
    } else {
      add(bad("run-dir", text("cannot make anything in '", folder_.string(), "': ", reason()),
              "It must belong to you and not be mounted read-only"));
    }
  }
  made = world_.all_gather_strings(made).front();
  if (made.empty()) return false;
  own_ = folder_ / made;

  const Stopwatch clock;
  bool seen = false;
  while (!seen && clock.seconds() < kPatience_s) {
    seen = content_of(own_ / "token") == made;
    if (!seen) std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  if (!seen) {
    add(bad("run-dir", text(host_, " does not see what rank 0 wrote in '", folder_.string(), "'"),
            "Ranks share checkpoints: use a folder on a file system that all nodes mount"));
  }
  if (!all(seen)) {
    if (first()) fs::remove_all(own_, failure);
    return false;
  }
  add_of_job(ok("run-dir", text("'", folder_.string(), "' is writable",
                                world_.size() > 1 ? ", and all ranks see what is written" : "")));
  return true;
}

void FolderCheck::look_at_space() {
  struct statvfs found {};
  if (!first()) return;
  if (statvfs(own_.c_str(), &found) != 0) return add_of_job(warn("space", "the file system does not tell", reason()));
  const std::int64_t files = found.f_files == 0 ? -1 : static_cast<std::int64_t>(found.f_favail);
  add_of_job(judge_space(static_cast<std::int64_t>(found.f_bavail) * static_cast<std::int64_t>(found.f_frsize), files));
}

void FolderCheck::look_at_renames() {
  const fs::path path = own_ / "renamed";
  std::string problem;
  if (first() && !write_small(path, std::string(kRenamedBytes, 'a'))) problem = reason();
  world_.barrier();
  RenamesSeen seen;
  if (first()) {
    std::thread reader([&] { seen = watch_renames(path); });
    if (problem.empty()) problem = replace_again_and_again(path);
    reader.join();
  } else {
    seen = watch_renames(path);
  }
  if (!problem.empty()) {
    add(bad("rename", text("a file cannot be replaced by rename: ", problem),
            "Checkpoints need it: use another file system"));
  } else if (seen.torn > 0 || (seen.missing > 0 && first())) {
    add(bad("rename",
            text("while a file was replaced by rename, ", seen.torn, " of ", seen.reads, " reads saw half of one, and ",
                 seen.missing, " saw none"),
            "Checkpoints need a rename that is atomic: use another file system"));
  } else if (seen.missing > 0) {
    add(warn("rename", text(seen.missing, " reads saw no file while it was replaced by rename on another node"),
             "The file system shows changes late: give --resume a few seconds after another job has ended"));
  }
  const bool well = problem.empty() && seen.torn == 0 && seen.missing == 0;
  if (all(well)) add_of_job(ok("rename", text("atomic: ", kRenames, " in a row, and readers saw whole files alone")));
}

void FolderCheck::look_at_syncs() {
  if (!first()) return;
  std::vector<double> seconds;
  for (int i = 0; i < kSyncs; ++i) {
    const Fd file = open_file(own_ / "synced", O_WRONLY | O_CREAT | O_TRUNC);
    const Fd folder = open_file(own_, O_RDONLY | O_DIRECTORY);
    const Stopwatch clock;
    const bool done = file.get() >= 0 && folder.get() >= 0 && write_all(file.get(), "synced", 6) &&
                      fsync(file.get()) == 0 && fsync(folder.get()) == 0;
    if (!done) {
      return add_of_job(bad("fsync", text("a file and its folder cannot be forced to disk: ", reason()),
                            "Checkpoints need it: use another file system"));
    }
    seconds.push_back(clock.seconds());
  }
  add_of_job(judge_sync(median(seconds)));
}

void FolderCheck::look_at_lock(const std::string& kind, const std::string& name, bool (*take)(int),
                               LockSeen (*see)(const fs::path&)) {
  const fs::path path = own_ / name;
  Fd file;
  std::string problem;
  if (first()) {
    file = open_file(path, O_RDWR | O_CREAT);
    if (file.get() < 0 || !take(file.get())) problem = reason();
  }
  world_.barrier();
  // Rank 0 holds it: a child of its own stands for the processes of its node.
  std::int64_t mine = static_cast<int>(LockSeen::refused);
  if (first() && problem.empty()) mine = static_cast<int>(seen_by_a_child([&] { return see(path); }));
  if (!first()) mine = static_cast<int>(see(path));
  std::vector<std::int64_t> all_seen(static_cast<std::size_t>(world_.size()));
  world_.all_gather(ConstTensor(&mine, {1}, Dtype::i64), Tensor(all_seen.data(), {world_.size()}, Dtype::i64));
  world_.barrier();
  if (!first()) return;
  std::vector<LockSeen> seen;
  for (const std::int64_t one : all_seen) seen.push_back(static_cast<LockSeen>(one));
  const char* setting = std::getenv("HDF5_USE_FILE_LOCKING");
  const bool off =
      setting != nullptr && (std::strcmp(setting, "FALSE") == 0 || std::strcmp(setting, "BEST_EFFORT") == 0);
  add_of_job(judge_lock(kind, seen, off));
}

void FolderCheck::look_at_locks() {
  look_at_lock(
      "POSIX locks", "posix-lock",
      [](int file) {
        struct flock range = whole_file(F_WRLCK);
        return fcntl(file, F_SETLK, &range) == 0;
      },
      see_posix_lock);
  look_at_lock(
      "flock", "flock", [](int file) { return flock(file, LOCK_EX | LOCK_NB) == 0; }, see_flock);
}

void FolderCheck::look_at_speed(std::int64_t bytes) {
  world_.barrier();
  const SpeedSeen mine = write_and_read(own_ / text("speed-", world_.rank()), bytes, world_.rank());
  if (!mine.problem.empty()) {
    add(bad("speed", text("rank ", world_.rank(), " on ", host_, " ", mine.problem), "Is the disk or a quota full?"));
  }
  if (!all(mine.problem.empty())) return;
  const std::vector<double> writes = of_all_ranks(world_, mine.write_s);
  const std::vector<double> reads = of_all_ranks(world_, mine.read_s);
  const std::vector<double> ahead = of_all_ranks(world_, mine.ahead_s);
  add_of_job(judge_speed(bytes, writes, reads));
  add_of_job(judge_file_clock(ahead));
}

void FolderCheck::leave() {
  world_.barrier();
  std::error_code failure;
  if (first()) fs::remove_all(own_, failure);
  if (failure) {
    add_of_job(warn("run-dir", text("cannot remove '", own_.string(), "': ", failure.message()), "Remove it by hand"));
  }
}

}  // namespace

Findings check_folder(Communicator& world, const std::vector<std::string>& hosts, const fs::path& folder,
                      std::int64_t bytes) {
  FolderCheck check(world, hosts, folder);
  if (!check.enter()) return check.findings;
  check.look_at_space();
  check.look_at_renames();
  check.look_at_syncs();
  check.look_at_locks();
  check.look_at_speed(bytes);
  check.leave();
  return check.findings;
}

// --- what is judged --------------------------------------------------------------------------------------------------

Finding judge_space(std::int64_t free_bytes, std::int64_t free_files) {
  const std::string said =
      text(size_text(free_bytes), free_files < 0 ? " free" : text(" and room for ", free_files, " files free"));
  if (free_bytes < kGiB || (free_files >= 0 && free_files < 100)) {
    return bad("space", said, "No checkpoint has room: make some, or use another file system");
  }
  if (free_bytes < 20 * kGiB) {
    return warn("space", said, "Checkpoints of a large model take 12 bytes per parameter, and there are several");
  }
  return ok("space", said);
}

Finding judge_lock(const std::string& kind, const std::vector<LockSeen>& seen, bool hdf5_locks_off) {
  const auto count = [&](LockSeen what) { return std::count(seen.begin(), seen.end(), what); };
  if (count(LockSeen::refused) > 0) {
    const std::string said = text(kind, ": the file system refuses them");
    if (hdf5_locks_off) return ok("locks", said + ", and HDF5_USE_FILE_LOCKING says not to use them");
    return warn("locks", said,
                "Some HDF5 libraries then refuse to open files: export HDF5_USE_FILE_LOCKING=FALSE, or "
                "mount with locks (Lustre: -o flock)");
  }
  if (count(LockSeen::free) > 0) {
    return warn("locks",
                text(kind, ": ", count(LockSeen::free), " of ", seen.size(), " processes do not see one that is held"),
                "Locks do not reach other nodes (mounted with nolock or localflock): never let two jobs write one run");
  }
  return ok("locks",
            text(kind, ": seen by ", seen.size() == 1 ? "another process" : text("another process and all ranks")));
}

Finding judge_speed(std::int64_t bytes, const std::vector<double>& write_s, const std::vector<double>& read_s) {
  const double all = 1e-6 * static_cast<double>(bytes) * static_cast<double>(write_s.size());
  const double write = all / *std::max_element(write_s.begin(), write_s.end());
  const double read = all / *std::max_element(read_s.begin(), read_s.end());
  const std::string said =
      text(size_text(bytes), write_s.size() == 1 ? "" : " by every rank at the same time",
           ": written and forced to disk at ", fixed(write, 0), " MB/s, read at ", fixed(read, 0), " MB/s");
  if (write < 50 || read < 50) {
    return warn("speed", said, "Checkpoints and shards are large: use the parallel file system, not home or NFS");
  }
  return ok("speed", said);
}

Finding judge_sync(double seconds) {
  const std::string said = text("a small file and its folder are on disk after ", fixed(1e3 * seconds, 1), " ms");
  if (seconds > 0.5) return warn("fsync", said, "Every checkpoint waits for several: is the file system busy?");
  return ok("fsync", said);
}

Finding judge_file_clock(const std::vector<double>& ahead_s) {
  const auto worst =
      *std::max_element(ahead_s.begin(), ahead_s.end(), [](double a, double b) { return std::abs(a) < std::abs(b); });
  const std::string said = text("the file system's clock is ", fixed(std::abs(worst), 2), " s ",
                                worst < 0 ? "behind" : "before", " that of a rank");
  if (std::abs(worst) > 2) return warn("clocks", said, "Times of files mislead: is chrony or ntpd running?");
  return ok("clocks", std::abs(worst) < 0.1 ? "the file system's clock is that of the ranks" : said);
}

}  // namespace vitrail
