#include "train/checkpoint_folder.hpp"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "base/file.hpp"
#include "train/checkpoint.hpp"
#include "train/checkpoint_manifest.hpp"

namespace vitrail {

namespace fs = std::filesystem;

namespace {

constexpr const char* kLatest = "latest";

/// An entry of RUN/checkpoints that follows our naming.
struct Entry {
  std::int64_t step = 0;
  std::string suffix;  ///< "", ".tmp" or ".old"
  fs::path path;
};

/// "step-00000420.tmp" -> 420 and ".tmp"; false for other people's files.
bool parse(const std::string& name, Entry& entry) {
  constexpr std::string_view head = "step-";
  if (name.compare(0, head.size(), head) != 0) return false;
  const std::size_t end = std::min(name.find_first_not_of("0123456789", head.size()), name.size());
  if (end - head.size() < 8 || end - head.size() > 18) return false;
  entry.step = std::strtoll(name.c_str() + head.size(), nullptr, 10);
  entry.suffix = name.substr(end);
  return entry.suffix.empty() || entry.suffix == ".tmp" || entry.suffix == ".old";
}

std::vector<Entry> entries_of(const fs::path& checkpoints) {
  std::vector<Entry> entries;
  std::error_code failure;
  for (fs::directory_iterator at(checkpoints, failure), end; !failure && at != end; at.increment(failure)) {
    Entry entry;
    if (!parse(at->path().filename().string(), entry)) continue;
    entry.path = at->path();
    entries.push_back(std::move(entry));
  }
  return entries;
}

bool is_complete(const fs::path& folder) {
  std::error_code failure;
  return fs::exists(folder / kManifestName, failure);
}

/// Renamed first, so that a half-removed checkpoint is never taken for one.
void remove_checkpoint(const fs::path& folder) {
  std::error_code failure;
  const fs::path unfinished = folder.string() + ".tmp";
  fs::rename(folder, unfinished, failure);
  if (!failure) fs::remove_all(unfinished, failure);
}

/// The name in the file `latest`; empty if there is none.
std::string name_of_latest(const fs::path& checkpoints) {
  std::error_code failure;
  if (!fs::is_regular_file(checkpoints / kLatest, failure)) return "";
  std::string name = read_file(checkpoints / kLatest, ExitCode::checkpoint);
  name.erase(name.find_last_not_of(" \r\n") + 1);
  Entry entry;
  return parse(name, entry) && entry.suffix.empty() ? name : "";
}

void expect_removed(const fs::path& path) {
  std::error_code failure;
  fs::remove_all(path, failure);
  VITRAIL_EXPECT(!failure, ExitCode::checkpoint, text("cannot remove '", path.string(), "', the rest of an older save"),
                 failure.message(), "Remove it by hand");
}

}  // namespace

std::string step_name(std::int64_t step) {
  char name[32];
  std::snprintf(name, sizeof name, "step-%08lld", static_cast<long long>(step));
  return name;
}

void CheckpointFolder::repair() const {
  for (const Entry& entry : entries_of(path_)) {
    if (entry.suffix == ".tmp") expect_removed(entry.path);
    if (entry.suffix != ".old") continue;
    // Killed between the two renames of publish(): the old one is still the checkpoint of its step.
    const fs::path name = path_ / step_name(entry.step);
    if (is_complete(name)) {
      expect_removed(entry.path);
    } else {
      rename_durably(entry.path, name, ExitCode::checkpoint);
    }
  }
}

void CheckpointFolder::begin(std::int64_t step) const {
  std::error_code failure;
  fs::create_directories(path_, failure);
  VITRAIL_EXPECT(!failure, ExitCode::checkpoint, text("cannot make the folder '", path_.string(), "'"),
                 failure.message(), "Is the run's folder writable?");
  repair();
  fs::create_directory(unfinished(step), failure);
  VITRAIL_EXPECT(!failure, ExitCode::checkpoint, text("cannot make the folder '", unfinished(step).string(), "'"),
                 failure.message(), "Is the run's folder writable?");
}

void CheckpointFolder::publish(std::int64_t step) const {
  const fs::path name = path_ / step_name(step);
  const fs::path aside = name.string() + ".old";
  const bool replaces = fs::exists(name);
  if (replaces) rename_durably(name, aside, ExitCode::checkpoint);
  try {
    rename_durably(unfinished(step), name, ExitCode::checkpoint);
  } catch (...) {
    std::error_code failure;
    if (replaces) fs::rename(aside, name, failure);
    throw;
  }
  write_file_atomically(path_ / kLatest, step_name(step) + "\n", ExitCode::checkpoint);
  std::error_code failure;
  if (replaces) fs::remove_all(aside, failure);
}

void CheckpointFolder::abandon(std::int64_t step) const noexcept {
  std::error_code failure;
  fs::remove_all(unfinished(step), failure);
}

void CheckpointFolder::prune(int keep_last, std::int64_t keep_every) const {
  if (keep_last <= 0) return;
  std::vector<Entry> complete;
  for (Entry& entry : entries_of(path_)) {
    if (entry.suffix.empty() && is_complete(entry.path)) complete.push_back(std::move(entry));
  }
  std::sort(complete.begin(), complete.end(), [](const Entry& a, const Entry& b) { return a.step > b.step; });
  const std::string latest = name_of_latest(path_);
  for (std::size_t i = static_cast<std::size_t>(keep_last); i < complete.size(); ++i) {
    const bool is_milestone = keep_every > 0 && complete[i].step % keep_every == 0;
    if (!is_milestone && complete[i].path.filename() != latest) remove_checkpoint(complete[i].path);
  }
}

std::vector<fs::path> complete_checkpoints(const fs::path& run_dir) {
  const fs::path checkpoints = run_dir / "checkpoints";
  std::vector<Entry> complete;
  for (Entry& entry : entries_of(checkpoints)) {
    if (entry.suffix != ".tmp" && is_complete(entry.path)) complete.push_back(std::move(entry));
  }
  const std::string latest = name_of_latest(checkpoints);
  // Of one step, the new one (no suffix) goes before the old.
  const auto key_of = [&](const Entry& entry) {
    return std::tuple(step_name(entry.step) == latest, entry.step, entry.suffix.empty());
  };
  std::sort(complete.begin(), complete.end(), [&](const Entry& a, const Entry& b) { return key_of(a) > key_of(b); });
  std::vector<fs::path> paths;
  paths.reserve(complete.size());
  for (const Entry& entry : complete) paths.push_back(entry.path);
  return paths;
}

std::optional<fs::path> latest_checkpoint(const fs::path& run_dir) {
  const std::vector<fs::path> complete = complete_checkpoints(run_dir);
  if (complete.empty()) return std::nullopt;
  return complete.front();
}

}  // namespace vitrail
