#pragma once
// Files as bytes at offsets: read in place, and written aside, so that a crash leaves the old file or the new one.

#include <cstdint>
#include <filesystem>

#include "base/error.hpp"
#include "base/file.hpp"

namespace vitrail {

class RawReader {
 public:
  /// Error(code) if it is missing, not a plain file, or cannot be read.
  RawReader(std::filesystem::path path, ExitCode code);
  [[nodiscard]] const std::filesystem::path& path() const noexcept { return path_; }
  /// When it was opened.
  [[nodiscard]] std::int64_t bytes() const noexcept { return bytes_; }
  /// `count` bytes from `offset` on. Error(code) if the file has fewer.
  void read(std::int64_t offset, void* to, std::int64_t count) const;

 private:
  std::filesystem::path path_;
  ExitCode code_;
  UniqueHandle<DescriptorTraits> descriptor_;
  std::int64_t bytes_ = 0;
};

/// Writes PATH.tmp, which is removed again if it is not published.
class RawWriter {
 public:
  /// Error(code) if it cannot be made.
  RawWriter(std::filesystem::path path, ExitCode code);
  RawWriter(RawWriter&& other) noexcept;
  RawWriter& operator=(RawWriter&&) = delete;
  RawWriter(const RawWriter&) = delete;
  RawWriter& operator=(const RawWriter&) = delete;
  ~RawWriter();

  [[nodiscard]] const std::filesystem::path& path() const noexcept { return path_; }
  void write(std::int64_t offset, const void* from, std::int64_t count);
  /// Forces the bytes to disk and closes the file, still as PATH.tmp.
  void seal();
  /// The sealed file gets its name, and replaces an older one.
  void publish();

 private:
  std::filesystem::path path_;
  std::filesystem::path aside_;  ///< empty: published
  ExitCode code_;
  UniqueHandle<DescriptorTraits> descriptor_;
};

}  // namespace vitrail
