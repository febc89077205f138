#pragma once
// A file of which parts are read or written at their places, and one that is looked at without being read.

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string_view>

#include "base/file.hpp"

namespace vitrail {

/// Every failure is an Error (checkpoint) that names the file.
class PositionedFile {
 public:
  static PositionedFile open(std::filesystem::path path);
  /// Writable and empty; an old file of that name is lost.
  static PositionedFile create(std::filesystem::path path);

  [[nodiscard]] const std::filesystem::path& path() const noexcept { return path_; }
  [[nodiscard]] std::int64_t size() const;
  /// Bytes offset .. offset + bytes - 1. An Error when the file ends before.
  void read(std::int64_t offset, std::int64_t bytes, void* to) const;
  void write(std::int64_t offset, std::string_view content);
  /// Forces everything to disk and closes: a full disk is noticed here at the latest.
  void close();

 private:
  friend class MappedFile;
  PositionedFile(std::filesystem::path path, int descriptor);

  std::filesystem::path path_;
  UniqueHandle<DescriptorTraits> descriptor_;
};

/// A whole file as memory. Only pages that are looked at are read, and forget() gives them back: the process stays
/// small whatever the size of the file. The file must not be cut while it is looked at.
class MappedFile {
 public:
  explicit MappedFile(const PositionedFile& file);
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  ~MappedFile();

  [[nodiscard]] std::string_view bytes() const noexcept { return bytes_; }
  /// The pages seen so far leave memory; they are read again when they are looked at again.
  void forget() const noexcept;

 private:
  void* address_ = nullptr;
  std::string_view bytes_;
};

}  // namespace vitrail
