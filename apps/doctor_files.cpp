#include "apps/doctor_files.hpp"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <thread>

#include <sys/statvfs.h>

#include "apps/bench_measure.hpp"
#include "apps/checkpoint_listing.hpp"
#include "apps/progress.hpp"
#include "base/timer.hpp"

namespace vitrail {

namespace fs = std::filesystem;

namespace {

constexpr std::int64_t kGiB = std::int64_t{1} << 30;
constexpr int kSyncs = 10;

std::string reason() { return std::strerror(errno); }

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
  /// `name` is for people: "POSIX locks".
  void look_at_lock(const std::string& name, LockKind kind);
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
  bool all_see_the_folder();
  void make_own_folder();
  bool all_see_what_is_written();

  Communicator& world_;
  std::string host_;
  fs::path folder_;
  fs::path own_;  ///< in which everything happens
};

bool FolderCheck::enter() {
  if (!all_see_the_folder()) return false;
  make_own_folder();
  if (own_.empty()) return false;
  if (!all_see_what_is_written()) {
    std::error_code failure;
    if (first()) fs::remove_all(own_, failure);
    return false;
  }
  add_of_job(ok("run-dir", text("'", folder_.string(), "' is writable",
                                world_.size() > 1 ? ", and all ranks see what is written" : "")));
  return true;
}

bool FolderCheck::all_see_the_folder() {
  std::error_code failure;
  const bool there = fs::is_directory(folder_, failure);
  if (!there) {
    add(bad("run-dir", text(host_, " sees no folder '", folder_.string(), "'", failure ? ": " + failure.message() : ""),
            "Make it on a file system that all nodes share"));
  }
  return all(there);
}

/// Rank 0 makes it, with a file that holds its name; own_ stays empty on every rank if it cannot.
void FolderCheck::make_own_folder() {
  std::string made;
  if (first()) {
    std::string pattern = (folder_ / ".vitrail-doctor-XXXXXX").string();
    if (mkdtemp(pattern.data()) == nullptr) {
      add(bad("run-dir", text("cannot make anything in '", folder_.string(), "': ", reason()),
              "It must belong to you and not be mounted read-only"));
    } else {
      made = fs::path(pattern).filename().string();
      if (!write_small(folder_ / made / "token", made)) {
        add(bad("run-dir", text("cannot write in '", folder_.string(), "': ", reason()),
                "Is the disk or a quota full?"));
        std::error_code failure;
        fs::remove_all(folder_ / made, failure);
        made.clear();
      }
    }
  }
  made = world_.all_gather_strings(made).front();
  if (!made.empty()) own_ = folder_ / made;
}

bool FolderCheck::all_see_what_is_written() {
  const Stopwatch clock;
  const std::string expected = own_.filename().string();
  bool seen = content_of(own_ / "token") == expected;
  while (!seen && clock.seconds() < kFolderPatience_s) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    seen = content_of(own_ / "token") == expected;
  }
  if (!seen) {
    add(bad("run-dir", text(host_, " does not see what rank 0 wrote in '", folder_.string(), "'"),
            "Ranks share checkpoints: use a folder on a file system that all nodes mount"));
  }
  return all(seen);
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
  if (first() && !write_first_to_be_replaced(path)) problem = reason();
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
    const auto once = sync_time(own_);
    if (!once) {
      return add_of_job(bad("fsync", text("a file and its folder cannot be forced to disk: ", reason()),
                            "Checkpoints need it: use another file system"));
    }
    seconds.push_back(*once);
  }
  add_of_job(judge_sync(median(seconds)));
}

void FolderCheck::look_at_lock(const std::string& name, LockKind kind) {
  const fs::path path = own_ / (kind == LockKind::posix ? "posix-lock" : "flock");
  const FileDescriptor lock = first() ? take_lock(path, kind) : FileDescriptor();
  world_.barrier();
  // Rank 0 holds it: a child of its own stands for the processes of its node.
  LockSeen seen = LockSeen::refused;
  if (first() && lock) seen = see_lock_from_a_child(path, kind);
  if (!first()) seen = see_lock(path, kind);
  const auto mine = static_cast<std::int64_t>(seen);
  std::vector<std::int64_t> of_ranks(static_cast<std::size_t>(world_.size()));
  world_.all_gather(ConstTensor(&mine, {1}, Dtype::i64), Tensor(of_ranks.data(), {world_.size()}, Dtype::i64));
  std::vector<LockSeen> all_seen;
  all_seen.reserve(of_ranks.size());
  for (const std::int64_t one : of_ranks) all_seen.push_back(static_cast<LockSeen>(one));
  const char* setting = std::getenv("HDF5_USE_FILE_LOCKING");
  const std::string locking = setting == nullptr ? "" : setting;
  add_of_job(judge_lock(name, all_seen, locking == "FALSE" || locking == "BEST_EFFORT"));
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
  check.look_at_lock("POSIX locks", LockKind::posix);
  check.look_at_lock("flock", LockKind::flock);
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

Finding judge_lock(const std::string& name, const std::vector<LockSeen>& seen, bool hdf5_locks_off) {
  const auto count = [&](LockSeen what) { return std::count(seen.begin(), seen.end(), what); };
  if (count(LockSeen::refused) > 0) {
    const std::string said = text(name, ": the file system refuses them");
    if (hdf5_locks_off) return ok("locks", said + ", and HDF5_USE_FILE_LOCKING says not to use them");
    return warn("locks", said,
                "Some HDF5 libraries then refuse to open files: export HDF5_USE_FILE_LOCKING=FALSE, or "
                "mount with locks (Lustre: -o flock)");
  }
  if (count(LockSeen::free) > 0) {
    return warn("locks",
                text(name, ": ", count(LockSeen::free), " of ", seen.size(), " processes do not see one that is held"),
                "Locks do not reach other nodes (mounted with nolock or localflock): never let two jobs write one run");
  }
  return ok("locks",
            text(name, ": seen by ", seen.size() == 1 ? "another process" : text("another process and all ranks")));
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
