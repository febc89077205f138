#include "apps/checkpoint_prune.hpp"

#include <algorithm>
#include <filesystem>
#include <iostream>
#include <optional>
#include <string>
#include <vector>

#include "apps/checkpoint_listing.hpp"
#include "apps/options.hpp"
#include "base/file.hpp"

namespace vitrail {

namespace fs = std::filesystem;

namespace {

constexpr const char* kManual =
    "vitrail-checkpoint prune RUN : removes old checkpoints of a run. The N newest stay, those whose step is a\n"
    "multiple of M, and always the one that --resume would take. What is unfinished or damaged is left alone. Not\n"
    "while the run is training: its own --keep-last does that.\n"
    "\n"
    "  vitrail-checkpoint prune runs/mine --keep-last 2 --keep-every 1000 --dry-run\n"
    "  vitrail-checkpoint prune runs/mine --keep-last 2 --keep-every 1000\n"
    "\n"
    "Exit codes: 0 done; 2 usage; 4 there is no such run, or one could not be removed.";

struct Settings {
  std::vector<fs::path> runs;
  std::int64_t keep_last = 0;
  std::int64_t keep_every = 0;
  bool dry_run = false;
  bool json = false;
};

/// Renamed first, so that a checkpoint that is half removed is never taken for one.
void remove_checkpoint(const fs::path& folder) {
  const fs::path unfinished = folder.string() + ".tmp";
  rename_durably(folder, unfinished, ExitCode::checkpoint);
  std::error_code failure;
  fs::remove_all(unfinished, failure);
  VITRAIL_EXPECT(!failure, ExitCode::checkpoint, text("cannot remove all of '", unfinished.string(), "'"),
                 failure.message(), "Remove it by hand");
}

}  // namespace

std::vector<bool> kept_by(const PruneRule& rule, const std::vector<ListedCheckpoint>& newest_first) {
  std::vector<bool> kept;
  std::int64_t complete = 0;
  for (const ListedCheckpoint& one : newest_first) {
    const bool other = one.state != ListedCheckpoint::State::complete;
    const bool young = !other && complete++ < rule.keep_last;
    const bool milestone = rule.keep_every > 0 && one.step % rule.keep_every == 0;
    kept.push_back(other || young || milestone || one.latest);
  }
  return kept;
}

int checkpoint_prune(int argc, char** argv) {
  Settings s;
  Options options("vitrail-checkpoint prune", kManual);
  options.add("run", s.runs, "RUN", "folder of the run").required();
  options.add("keep-last", s.keep_last, "N", "checkpoints that stay, the newest").required();
  options.add("keep-every", s.keep_every, "M", "those of steps M, 2 M, 3 M ... stay, too; 0: no others");
  options.add("dry-run", s.dry_run, "", "say what would be removed, and remove nothing");
  options.add("json", s.json, "", "one JSON object instead of lines");
  options.positional("run");
  if (!options.parse(argc, argv)) return 0;
  options.apply();
  VITRAIL_EXPECT(s.runs.size() == 1, ExitCode::usage, text(s.runs.size(), " runs are given"), "one is pruned", "");
  VITRAIL_EXPECT(s.keep_last >= 1, ExitCode::usage, text("--keep-last ", s.keep_last), "at least one checkpoint stays",
                 "");
  VITRAIL_EXPECT(s.keep_every >= 0, ExitCode::usage, text("--keep-every ", s.keep_every), "it must be 0 or more", "");

  const std::vector<ListedCheckpoint> found = list_checkpoints(s.runs.front());
  const std::vector<bool> kept = kept_by({s.keep_last, s.keep_every}, found);
  Json removed = Json::array();
  std::int64_t bytes = 0;
  for (std::size_t i = 0; i < found.size(); ++i) {
    if (kept[i]) continue;
    if (!s.dry_run) remove_checkpoint(found[i].path);
    bytes += found[i].bytes;
    removed.push_back(found[i].path.string());
    if (!s.json) std::cout << (s.dry_run ? "would remove " : "removed ") << found[i].path.string() << std::endl;
  }
  if (s.json) {
    std::cout << Json::object().set("removed", removed).set("bytes", bytes).set("dry_run", s.dry_run).dump() << '\n';
  } else {
    std::cout << removed.items().size() << " of " << found.size() << (s.dry_run ? " would be removed, " : " removed, ")
              << size_text(bytes) << '\n';
  }
  return 0;
}

}  // namespace vitrail
