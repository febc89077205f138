#pragma once
// Files as a whole: read, and replaced so that a crash leaves the old one or the new one, never half of it. And single
// stretches of their bytes.

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <source_location>
#include <span>
#include <string>
#include <string_view>

#include "base/error.hpp"
#include "base/unique_handle.hpp"

namespace vitrail {

/// The content of a file. Error(code) if it is missing or cannot be read.
std::string read_file(const std::filesystem::path& path, ExitCode code);

/// Writes "PATH.tmp", forces it to disk and renames it to PATH. Error(code), with the old file untouched, on failure.
void write_file_atomically(const std::filesystem::path& path, std::string_view content, ExitCode code);

/// Forces a file's bytes, or a folder's entries, to disk (fsync): what is not forced may be lost with the machine.
void sync_to_disk(const std::filesystem::path& path, ExitCode code);

/// Renames a file or folder within one file system, then forces both folders' entries to disk. Replaces a file of the
/// new name, and a folder only if it is empty.
void rename_durably(const std::filesystem::path& from, const std::filesystem::path& to, ExitCode code);

struct DescriptorTraits {
  using Handle = int;
  static constexpr Handle null = -1;
  static void close(Handle handle) noexcept;
};

// For classes that own a descriptor; `path` is what their Error(code) names.

/// Fails with the reason in errno: "cannot VERB 'PATH'".
[[noreturn]] void fail_with_errno(ExitCode code, const char* verb, const std::filesystem::path& path,
                                  std::source_location where = std::source_location::current());
/// Fills `to` with the bytes from `offset` on, as far as the file goes. How many there were.
std::size_t read_at(int descriptor, std::int64_t offset, std::span<std::byte> to, ExitCode code,
                    const std::filesystem::path& path);
/// Writes all of `content` from `offset` on.
void write_at(int descriptor, std::int64_t offset, std::string_view content, ExitCode code,
              const std::filesystem::path& path);

/// An open file whose bytes are read at any place. Several threads may read at the same time.
class FileBytes {
 public:
  /// Error(code) if it is missing or cannot be read.
  FileBytes(std::filesystem::path path, ExitCode code);

  [[nodiscard]] const std::filesystem::path& path() const noexcept { return path_; }
  [[nodiscard]] std::int64_t size() const;
  /// Fills `to` with the bytes from `offset` on. Error(code) if it cannot, or if the file ends before.
  void read(std::int64_t offset, std::span<std::byte> to) const;

 private:
  std::filesystem::path path_;
  ExitCode code_;
  UniqueHandle<DescriptorTraits> descriptor_;
};

}  // namespace vitrail
