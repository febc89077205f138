#pragma once
// Zip archives, read and written a stretch at a time: every call of libzip is behind this header.
//
// All failures are Error(checkpoint) that name the archive, the entry and libzip's reason.

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace vitrail {

struct ZipEntry {
  std::string name;        ///< UTF-8
  std::int64_t bytes = 0;  ///< uncompressed
  bool deflated = false;   ///< false: stored
};

class ZipReader {
 public:
  /// Error if it is not an archive, or has entries that are encrypted, compressed by another method than deflate, or
  /// larger than the file can hold.
  explicit ZipReader(const std::filesystem::path& path);
  ZipReader(const ZipReader&) = delete;
  ZipReader& operator=(const ZipReader&) = delete;
  ~ZipReader();

  /// In the order of the archive's directory. Two may have the same name.
  [[nodiscard]] std::span<const ZipEntry> entries() const noexcept;

  /// Bytes offset .. offset + count - 1 of an entry. Stretches in rising order cost nothing extra. Going forward in a
  /// stored entry is a seek, in a deflated one the bytes between are decompressed; going back in that starts anew.
  /// Error when the entry is damaged or too short. Its checksum is compared when the last byte is read, provided that
  /// all bytes before it have been read since the entry was begun (gaps of up to 64 KiB are read too).
  void read(std::size_t entry, std::int64_t offset, void* to, std::int64_t count);

 private:
  struct Contents;
  std::unique_ptr<Contents> contents_;
};

/// Writes an archive of stored entries whose sizes are known beforehand. The bytes pass through; nothing is kept.
/// Entries and archives may be larger than 4 GiB (zip64). Equal contents give equal files: the date is always
/// 1980-01-01.
///
/// libzip asks for bytes, and the caller brings them: libzip runs in a thread of its own, which waits for the next
/// stretch while the caller does not wait for it, and the other way round.
class ZipWriter {
 public:
  struct Entry {
    std::string name;  ///< UTF-8
    std::int64_t bytes = 0;
  };

  /// Begins PATH.tmp. Error if it cannot be made, if there are no entries, or two of the same name.
  ZipWriter(const std::filesystem::path& path, const std::vector<Entry>& entries);
  ZipWriter(const ZipWriter&) = delete;
  ZipWriter& operator=(const ZipWriter&) = delete;
  /// Without finish() the unfinished file is removed.
  ~ZipWriter();

  /// The next bytes: the entries follow each other in the order of the list. Error if there are more than listed, or
  /// the disk is full.
  void write(const void* bytes, std::int64_t count);
  /// After the last byte: writes the directory, forces the file to disk and renames it.
  void finish();

 private:
  struct Contents;
  std::unique_ptr<Contents> contents_;
};

}  // namespace vitrail
