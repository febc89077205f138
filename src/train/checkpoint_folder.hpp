#pragma once
// The folder RUN/checkpoints: which of its entries are complete, and how one becomes the latest so that a crash between
// any two system calls leaves a complete one behind. One process at a time changes it.
//
//   step-00000420       complete: it has a manifest.json
//   step-00000440.tmp   being written, or being removed
//   step-00000420.old   complete, and about to give way to a new checkpoint of the same step
//   latest              names the newest complete one

#include <cstdint>
#include <filesystem>
#include <string>

namespace vitrail {

/// "step-00000420"
std::string step_name(std::int64_t step);

class CheckpointFolder {
 public:
  explicit CheckpointFolder(const std::filesystem::path& run_dir) : path_(run_dir / "checkpoints") {}

  [[nodiscard]] std::filesystem::path unfinished(std::int64_t step) const { return path_ / (step_name(step) + ".tmp"); }

  /// Removes what a crash has left and makes the folder unfinished(step). Error (checkpoint) if it cannot.
  void begin(std::int64_t step) const;
  /// Turns unfinished(step), complete and forced to disk, into the checkpoint of that step, and `latest` to it.
  void publish(std::int64_t step) const;
  /// Removes unfinished(step), as far as that is possible.
  void abandon(std::int64_t step) const noexcept;
  /// Removes all but the `keep_last` newest checkpoints (0: removes none), but neither those of steps that `keep_every`
  /// divides (0: no such steps) nor the one that `latest` names. What cannot be removed stays: the next save tries
  /// again.
  void prune(int keep_last, std::int64_t keep_every) const;

 private:
  void repair() const;

  std::filesystem::path path_;
};

}  // namespace vitrail
