#pragma once
// The folder of a run that a program of one process makes from other checkpoints.

#include <filesystem>

namespace vitrail {

/// Takes care of a folder that is to become a run: it must not be there yet, or be empty, so that no run is mixed with
/// another or written over.
class NewRun {
 public:
  /// Error (usage) when something is there.
  explicit NewRun(std::filesystem::path path);
  NewRun(const NewRun&) = delete;
  NewRun& operator=(const NewRun&) = delete;
  /// Without keep(): removes the empty folders that a failure has left, if the path was free.
  ~NewRun();

  [[nodiscard]] const std::filesystem::path& path() const noexcept { return path_; }
  void keep() noexcept { kept_ = true; }

 private:
  std::filesystem::path path_;
  bool was_there_ = false;
  bool kept_ = false;
};

}  // namespace vitrail
