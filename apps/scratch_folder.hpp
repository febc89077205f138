#pragma once
// A folder for the files of a self-test or a measurement.

#include <filesystem>
#include <string>

namespace vitrail {

/// A new folder under TMPDIR, removed at the end of its scope. Error (other) when it cannot be made.
class ScratchFolder {
 public:
  /// Its name begins with `name`.
  explicit ScratchFolder(const std::string& name);
  ScratchFolder(const ScratchFolder&) = delete;
  ScratchFolder& operator=(const ScratchFolder&) = delete;
  ~ScratchFolder();
  [[nodiscard]] const std::filesystem::path& path() const noexcept { return path_; }

 private:
  std::filesystem::path path_;
};

}  // namespace vitrail
