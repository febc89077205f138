#include <algorithm>
#include <array>
#include <cerrno>
#include <system_error>
#include <utility>

#include <zip.h>

#include "base/error.hpp"
#include "base/unique_handle.hpp"
#include "io/zip.hpp"

namespace vitrail {

namespace {

struct ArchiveTraits {
  using Handle = zip_t*;
  static constexpr Handle null = nullptr;
  static void close(Handle handle) noexcept { zip_discard(handle); }
};
struct StreamTraits {
  using Handle = zip_file_t*;
  static constexpr Handle null = nullptr;
  static void close(Handle handle) noexcept { zip_fclose(handle); }
};

constexpr const char* kFetchAgain = "The file is damaged or cut short; fetch it again";
/// Smaller gaps are read, not skipped: then the checksum can still be compared.
constexpr std::int64_t kGapThatIsRead = std::int64_t{1} << 16;
/// Deflate makes bytes at most 1032 times as many.
constexpr std::uint64_t kMostInflation = 1040;

std::string quoted(const std::filesystem::path& path) { return "'" + path.string() + "'"; }

/// Fails unless the file can be opened as a zip archive.
UniqueHandle<ArchiveTraits> open_archive(const std::filesystem::path& path, std::int64_t bytes) {
  // libzip takes an empty file for an empty archive.
  VITRAIL_EXPECT(bytes > 0, ExitCode::checkpoint, text(quoted(path), " is not a zip archive"), "it is empty",
                 kFetchAgain);
  int number = 0;
  UniqueHandle<ArchiveTraits> archive(zip_open(path.c_str(), ZIP_RDONLY, &number));
  if (!archive) {
    zip_error_t error;
    zip_error_init_with_code(&error, number);
    const std::string said = zip_error_strerror(&error);
    zip_error_fini(&error);
    const bool other_kind = number == ZIP_ER_NOZIP || number == ZIP_ER_INCONS;
    fail(ExitCode::checkpoint, {text("cannot read ", quoted(path), " as a zip archive"), said,
                                other_kind ? "Is it complete, and a file of this kind?" : ""});
  }
  return archive;
}

}  // namespace

struct ZipReader::Contents {
  explicit Contents(std::filesystem::path where) : path(std::move(where)) {
    std::error_code wrong;
    VITRAIL_EXPECT(std::filesystem::is_regular_file(path, wrong), ExitCode::checkpoint,
                   text("cannot read ", quoted(path)), wrong ? wrong.message() : "it is not a file",
                   "Is the path right?");
    const auto bytes = static_cast<std::int64_t>(std::filesystem::file_size(path, wrong));
    VITRAIL_EXPECT(!wrong, ExitCode::checkpoint, text("cannot read ", quoted(path)), wrong.message(), "");
    archive = open_archive(path, bytes);
    const zip_int64_t count = zip_get_num_entries(archive.get(), 0);
    for (zip_int64_t i = 0; i < count; ++i) list(static_cast<zip_uint64_t>(i), bytes);
  }

  [[nodiscard]] std::string name_of(std::size_t entry) const {
    return text("entry '", entries[entry].name, "' of ", quoted(path));
  }

  void list(zip_uint64_t index, std::int64_t file_bytes) {
    zip_stat_t found;
    zip_stat_init(&found);
    constexpr zip_uint64_t needed =
        ZIP_STAT_NAME | ZIP_STAT_SIZE | ZIP_STAT_COMP_SIZE | ZIP_STAT_COMP_METHOD | ZIP_STAT_ENCRYPTION_METHOD;
    VITRAIL_EXPECT(zip_stat_index(archive.get(), index, 0, &found) == 0 && (found.valid & needed) == needed,
                   ExitCode::checkpoint, text("entry ", index, " of ", quoted(path), " cannot be used"),
                   zip_strerror(archive.get()), kFetchAgain);
    const std::string what = text("entry '", found.name, "' of ", quoted(path));
    VITRAIL_EXPECT(found.encryption_method == ZIP_EM_NONE, ExitCode::checkpoint, text(what, " cannot be read"),
                   "it is encrypted", "Decrypt it first");
    VITRAIL_EXPECT(found.comp_method == ZIP_CM_STORE || found.comp_method == ZIP_CM_DEFLATE, ExitCode::checkpoint,
                   text(what, " cannot be read"), text("it is compressed by method ", found.comp_method),
                   "Only stored and deflated entries are read: write it anew");
    const bool deflated = found.comp_method == ZIP_CM_DEFLATE;
    const auto in_file = static_cast<zip_uint64_t>(file_bytes);
    VITRAIL_EXPECT(found.comp_size <= in_file &&
                       (deflated ? found.size / kMostInflation <= found.comp_size : found.size == found.comp_size),
                   ExitCode::checkpoint, text(what, " claims ", found.size, " bytes"),
                   text(found.comp_size, " compressed bytes in a file of ", file_bytes, " cannot hold them"),
                   kFetchAgain);
    entries.push_back({found.name, static_cast<std::int64_t>(found.size), deflated});
  }

  [[noreturn]] void damaged(std::size_t entry, const std::string& why) const {
    fail(ExitCode::checkpoint, {text(name_of(entry), " cannot be read"), why, kFetchAgain});
  }

  void begin(std::size_t entry) {
    stream = UniqueHandle<StreamTraits>(zip_fopen_index(archive.get(), entry, 0));
    if (!stream) damaged(entry, zip_strerror(archive.get()));
    current = entry;
    position = 0;
  }

  void read_on(void* to, std::int64_t count) {
    auto* next = static_cast<std::byte*>(to);
    while (count > 0) {
      const zip_int64_t got = zip_fread(stream.get(), next, static_cast<zip_uint64_t>(count));
      if (got < 0) damaged(current, zip_file_strerror(stream.get()));
      if (got == 0) damaged(current, text("it ends after ", position, " bytes"));
      next += got;
      position += got;
      count -= got;
    }
    if (position == entries[current].bytes) expect_end();
  }

  /// Asking for more at the end makes libzip compare the checksum.
  void expect_end() {
    std::byte extra{};
    const zip_int64_t got = zip_fread(stream.get(), &extra, 1);
    if (got < 0) damaged(current, zip_file_strerror(stream.get()));
    if (got > 0) damaged(current, text("it goes on after ", position, " bytes, where it should end"));
  }

  void move_to(std::size_t entry, std::int64_t offset) {
    const bool other = !stream || entry != current;
    const bool stored = !entries[entry].deflated;
    if (other || (offset < position && !stored)) begin(entry);
    if (offset < position || (stored && offset - position > kGapThatIsRead)) {
      if (zip_fseek(stream.get(), offset, SEEK_SET) != 0) damaged(entry, zip_file_strerror(stream.get()));
      position = offset;
    }
    std::array<std::byte, 1 << 14> dropped;
    while (position < offset) {
      read_on(dropped.data(), std::min(offset - position, static_cast<std::int64_t>(dropped.size())));
    }
  }

  std::filesystem::path path;
  UniqueHandle<ArchiveTraits> archive;
  std::vector<ZipEntry> entries;
  UniqueHandle<StreamTraits> stream;  ///< after the archive: closed before it
  std::size_t current = 0;            ///< the entry of the stream
  std::int64_t position = 0;          ///< of the stream
};

ZipReader::ZipReader(const std::filesystem::path& path) : contents_(std::make_unique<Contents>(path)) {}
ZipReader::~ZipReader() = default;

std::span<const ZipEntry> ZipReader::entries() const noexcept { return contents_->entries; }

void ZipReader::read(std::size_t entry, std::int64_t offset, void* to, std::int64_t count) {
  Contents& zip = *contents_;
  VITRAIL_EXPECT(entry < zip.entries.size(), ExitCode::checkpoint, text(quoted(zip.path), " has no entry ", entry),
                 text("it has ", zip.entries.size()), "");
  const std::int64_t bytes = zip.entries[entry].bytes;
  VITRAIL_EXPECT(offset >= 0 && count >= 0 && offset <= bytes && count <= bytes - offset, ExitCode::checkpoint,
                 text(zip.name_of(entry), " has no bytes ", offset, " .. ", offset + count),
                 text("it has ", bytes, " bytes"), kFetchAgain);
  if (count == 0) return;
  try {
    zip.move_to(entry, offset);
    zip.read_on(to, count);
  } catch (...) {
    zip.stream.reset();  // libzip does not go on after a failure
    throw;
  }
}

}  // namespace vitrail
