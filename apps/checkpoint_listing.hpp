#pragma once
// Which checkpoints stand where a user points: a run's folder, its folder "checkpoints", or one checkpoint.

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "base/json.hpp"

namespace vitrail {

struct ListedCheckpoint {
  /// unfinished: being written, being removed, or left by a crash. damaged: its manifest or a file's size is wrong.
  enum class State { complete, unfinished, damaged };

  std::filesystem::path path;
  std::int64_t step = 0;
  State state = State::unfinished;
  bool latest = false;     ///< what --resume would take
  std::string problem;     ///< of a damaged one
  std::string written;     ///< UTC: "2026-11-23 14:05:59"; empty: nobody knows
  std::int64_t bytes = 0;  ///< of everything in its folder
  std::int64_t files = 0;  ///< beside its manifest
  std::int64_t tensors = 0;
  Json layout;  ///< of the run that wrote it; null: not known
};

/// "complete", "unfinished", "damaged"
const char* name_of(ListedCheckpoint::State state);

/// All checkpoints at `path`, the newest first; none in a folder without any. No tensor is read. Error (checkpoint)
/// when there is no such folder.
std::vector<ListedCheckpoint> list_checkpoints(const std::filesystem::path& path);

/// "ranks 4, EP 2" of a layout; "" where it does not say.
std::string writers_text(const Json& layout);

/// "9 B", "12.3 MB", "1.2 GB": powers of 1000.
std::string size_text(std::int64_t bytes);

}  // namespace vitrail
