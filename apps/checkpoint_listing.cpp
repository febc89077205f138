#include "apps/checkpoint_listing.hpp"

#include <algorithm>
#include <array>
#include <cstdio>
#include <ctime>
#include <tuple>

#include <sys/stat.h>

#include "train/checkpoint.hpp"
#include "train/checkpoint_manifest.hpp"

namespace vitrail {

namespace fs = std::filesystem;

namespace {

constexpr std::string_view kHead = "step-";

/// "step-00000420", and with ".tmp" or ".old" behind it: 420; -1 for other names.
std::int64_t step_of(const std::string& name) {
  if (!name.starts_with(kHead)) return -1;
  const std::size_t end = std::min(name.find_first_not_of("0123456789", kHead.size()), name.size());
  const std::size_t digits = end - kHead.size();
  const std::string suffix = name.substr(end);
  if (digits < 8 || digits > 18 || !(suffix.empty() || suffix == ".tmp" || suffix == ".old")) return -1;
  return std::stoll(name.substr(kHead.size(), digits));
}

/// When a file was last written, in UTC.
std::string written_at(const fs::path& path) {
  struct stat found {};
  std::tm utc{};
  if (stat(path.c_str(), &found) != 0 || gmtime_r(&found.st_mtim.tv_sec, &utc) == nullptr) return "";
  std::array<char, 32> written{};
  return {written.data(), std::strftime(written.data(), written.size(), "%Y-%m-%d %H:%M:%S", &utc)};
}

/// Bytes of all files, and how many there are beside the manifest.
void measure(const fs::path& folder, ListedCheckpoint& found) {
  std::error_code failure;
  for (fs::directory_iterator at(folder, failure), end; !failure && at != end; at.increment(failure)) {
    std::error_code unreadable;
    const std::uintmax_t size = at->file_size(unreadable);
    if (unreadable) continue;
    found.bytes += static_cast<std::int64_t>(size);
    if (at->path().filename() != kManifestName) ++found.files;
  }
}

ListedCheckpoint look_at(const fs::path& folder) {
  ListedCheckpoint found;
  found.path = folder;
  measure(folder, found);
  const std::int64_t named = step_of(folder.filename().string());
  found.step = std::max<std::int64_t>(named, 0);
  std::error_code failure;
  const bool complete = fs::exists(folder / kManifestName, failure) && folder.extension() != ".tmp";
  found.written = written_at(complete ? folder / kManifestName : folder);
  if (!complete) return found;
  try {
    const CheckpointReader reader(folder);
    found.state = ListedCheckpoint::State::complete;
    if (named < 0) found.step = reader.info().step;
    found.layout = reader.info().layout;
    found.tensors = std::ssize(reader.tensors());
  } catch (const Error& error) {
    found.state = ListedCheckpoint::State::damaged;
    found.problem = error.what();
  }
  return found;
}

/// The folder whose entries are checkpoints: of a run, or `path` itself.
fs::path folder_of_checkpoints(const fs::path& path) {
  std::error_code failure;
  if (fs::is_directory(path / "checkpoints", failure)) return path / "checkpoints";
  return path;
}

/// The folder that a run's --resume would take; empty: none.
fs::path latest_in(const fs::path& checkpoints) {
  const fs::path absolute = fs::absolute(checkpoints.empty() ? "." : checkpoints).lexically_normal();
  const fs::path folder = absolute.has_filename() ? absolute : absolute.parent_path();
  if (folder.filename() != "checkpoints") return {};
  return latest_checkpoint(folder.parent_path()).value_or(fs::path());
}

}  // namespace

const char* name_of(ListedCheckpoint::State state) {
  switch (state) {
    case ListedCheckpoint::State::complete:
      return "complete";
    case ListedCheckpoint::State::unfinished:
      return "unfinished";
    case ListedCheckpoint::State::damaged:
      return "damaged";
  }
  return "";
}

std::vector<ListedCheckpoint> list_checkpoints(const fs::path& path) {
  std::error_code failure;
  VITRAIL_EXPECT(fs::is_directory(path, failure), ExitCode::checkpoint, text("no run '", path.string(), "'"),
                 fs::exists(path, failure) ? "it is not a folder" : "there is no such folder",
                 "Give the folder of a run or one of its checkpoints/step-... folders");
  const std::string own_name = (path.has_filename() ? path : path.parent_path()).filename().string();
  std::vector<ListedCheckpoint> found;
  if (fs::exists(path / kManifestName, failure) || step_of(own_name) >= 0) {
    found.push_back(look_at(path.has_filename() ? path : path.parent_path()));
    const fs::path latest = latest_in(found.front().path.parent_path());
    found.front().latest = !latest.empty() && fs::equivalent(latest, path, failure);
    return found;
  }
  const fs::path folder = folder_of_checkpoints(path);
  fs::directory_iterator at(folder, failure);
  VITRAIL_EXPECT(!failure, ExitCode::checkpoint, text("cannot list '", folder.string(), "'"), failure.message(),
                 "May you read it?");
  for (; !failure && at != fs::directory_iterator(); at.increment(failure)) {
    if (step_of(at->path().filename().string()) < 0) continue;
    found.push_back(look_at(at->path()));
    std::error_code unreadable;
    if (!fs::exists(at->path(), unreadable)) found.pop_back();  // a run that is training renames and removes
  }
  const std::string latest = latest_in(folder).filename().string();
  for (ListedCheckpoint& one : found) one.latest = one.path.filename().string() == latest;
  // Of one step, the checkpoint goes before what is to become it or was it.
  std::sort(found.begin(), found.end(), [](const ListedCheckpoint& a, const ListedCheckpoint& b) {
    return std::tie(b.step, a.path) < std::tie(a.step, b.path);
  });
  return found;
}

std::string writers_text(const Json& layout) {
  if (!layout.is_object()) return "";
  std::string said;
  const Json* ranks = layout.find("ranks");
  const Json* width = layout.find("expert_parallel");
  if (ranks != nullptr && ranks->is_integer()) said = text("ranks ", ranks->as_integer());
  if (width != nullptr && width->is_integer()) said += text(said.empty() ? "" : ", ", "EP ", width->as_integer());
  return said;
}

std::string size_text(std::int64_t bytes) {
  constexpr std::array units = {"B", "kB", "MB", "GB", "TB", "PB"};
  auto size = static_cast<double>(bytes);
  std::size_t unit = 0;
  for (; size >= 999.95 && unit + 1 < units.size(); ++unit) size /= 1000;
  std::array<char, 32> said{};
  std::snprintf(said.data(), said.size(), unit == 0 ? "%.0f %s" : "%.1f %s", size, units.at(unit));
  return said.data();
}

}  // namespace vitrail
