#include <exception>
#include <optional>
#include <thread>
#include <utility>

#include <zip.h>

#include "base/error.hpp"
#include "io/handover.hpp"
#include "io/raw_file.hpp"
#include "io/zip.hpp"

namespace vitrail {

namespace {

constexpr std::size_t kLongestName = 65535 - 4;

/// What libzip sees of an entry: a file of known size whose bytes come from the handover, once and in order.
struct EntryFeed {
  Handover* handover = nullptr;
  zip_uint64_t bytes = 0;
  zip_uint64_t left = 0;
  zip_error_t error{};
};

zip_int64_t feed(void* state, void* data, zip_uint64_t length, zip_source_cmd_t command) {
  auto& entry = *static_cast<EntryFeed*>(state);
  switch (command) {
    case ZIP_SOURCE_OPEN:
      entry.left = entry.bytes;
      return 0;
    case ZIP_SOURCE_READ: {
      const zip_uint64_t wanted = std::min(length, entry.left);
      if (wanted == 0) return 0;
      const std::size_t got = entry.handover->take(data, wanted);
      entry.left -= got;
      if (got > 0) return static_cast<zip_int64_t>(got);
      zip_error_set(&entry.error, ZIP_ER_CANCELLED, 0);
      return -1;
    }
    case ZIP_SOURCE_STAT: {
      auto& found = *static_cast<zip_stat_t*>(data);
      zip_stat_init(&found);
      found.size = entry.bytes;
      found.valid = ZIP_STAT_SIZE;
      return sizeof(zip_stat_t);
    }
    case ZIP_SOURCE_ERROR:
      return zip_error_to_data(&entry.error, data, length);
    case ZIP_SOURCE_CLOSE:
    case ZIP_SOURCE_FREE:
      return 0;
    case ZIP_SOURCE_SUPPORTS:
      return zip_source_make_command_bitmap(ZIP_SOURCE_OPEN, ZIP_SOURCE_READ, ZIP_SOURCE_CLOSE, ZIP_SOURCE_STAT,
                                            ZIP_SOURCE_ERROR, ZIP_SOURCE_FREE, ZIP_SOURCE_SUPPORTS, -1);
    default:
      zip_error_set(&entry.error, ZIP_ER_OPNOTSUPP, 0);
      return -1;
  }
}

/// What libzip sees of the file: one that is new and empty, and written at positions.
struct Target {
  RawWriter* file = nullptr;
  zip_uint64_t position = 0;
  zip_uint64_t end = 0;
  zip_error_t error{};
  std::exception_ptr failure;  ///< no exception may cross libzip: it is kept here
};

zip_int64_t write_target(Target& target, const void* data, zip_uint64_t length) {
  try {
    target.file->write(static_cast<std::int64_t>(target.position), data, static_cast<std::int64_t>(length));
  } catch (...) {
    target.failure = std::current_exception();
    zip_error_set(&target.error, ZIP_ER_WRITE, 0);
    return -1;
  }
  target.position += length;
  target.end = std::max(target.end, target.position);
  return static_cast<zip_int64_t>(length);
}

zip_int64_t into_target(void* state, void* data, zip_uint64_t length, zip_source_cmd_t command) {
  auto& target = *static_cast<Target*>(state);
  switch (command) {
    case ZIP_SOURCE_STAT: {
      auto& found = *static_cast<zip_stat_t*>(data);
      zip_stat_init(&found);
      found.valid = ZIP_STAT_SIZE;
      return sizeof(zip_stat_t);
    }
    case ZIP_SOURCE_WRITE:
      return write_target(target, data, length);
    case ZIP_SOURCE_SEEK_WRITE: {
      const zip_int64_t to = zip_source_seek_compute_offset(target.position, target.end, data, length, &target.error);
      if (to < 0) return -1;
      target.position = static_cast<zip_uint64_t>(to);
      return 0;
    }
    case ZIP_SOURCE_TELL_WRITE:
      return static_cast<zip_int64_t>(target.position);
    case ZIP_SOURCE_ERROR:
      return zip_error_to_data(&target.error, data, length);
    case ZIP_SOURCE_OPEN:
    case ZIP_SOURCE_READ:
    case ZIP_SOURCE_SEEK:
    case ZIP_SOURCE_TELL:
    case ZIP_SOURCE_CLOSE:
    case ZIP_SOURCE_FREE:
    case ZIP_SOURCE_BEGIN_WRITE:
    case ZIP_SOURCE_COMMIT_WRITE:
    case ZIP_SOURCE_ROLLBACK_WRITE:
    case ZIP_SOURCE_REMOVE:
      return 0;
    case ZIP_SOURCE_SUPPORTS:
      return ZIP_SOURCE_SUPPORTS_WRITABLE;
    default:
      zip_error_set(&target.error, ZIP_ER_OPNOTSUPP, 0);
      return -1;
  }
}

std::string take_message(zip_error_t& error) {
  std::string said = zip_error_strerror(&error);
  zip_error_fini(&error);
  return said;
}

}  // namespace

struct ZipWriter::Contents {
  Contents(const std::filesystem::path& where, const std::vector<Entry>& entries)
      : path(where), file(where, ExitCode::checkpoint) {
    VITRAIL_EXPECT(!entries.empty(), ExitCode::checkpoint, text("cannot write '", path.string(), "'"),
                   "an archive without entries was asked for", "");
    target.file = &file;
    feeds.reserve(entries.size());  // libzip keeps their addresses
    archive = open();
    try {
      for (const Entry& entry : entries) add(entry);
      thread = std::thread([this] { run(); });
    } catch (...) {
      zip_discard(archive);
      throw;
    }
  }
  Contents(const Contents&) = delete;
  Contents& operator=(const Contents&) = delete;
  ~Contents() {
    handover.giver_leaves();
    if (thread.joinable()) thread.join();
  }

  [[noreturn]] void cannot_write(const std::string& why) const {
    fail(ExitCode::checkpoint, {text("cannot write '", path.string(), "'"), why, ""});
  }

  zip_t* open() {
    zip_error_t error;
    zip_error_init(&error);
    zip_source_t* source = zip_source_function_create(into_target, &target, &error);
    if (source == nullptr) cannot_write(take_message(error));
    zip_t* opened = zip_open_from_source(source, ZIP_CREATE | ZIP_TRUNCATE, &error);
    if (opened == nullptr) {
      zip_source_free(source);
      cannot_write(take_message(error));
    }
    return opened;
  }

  void add(const Entry& entry) {
    VITRAIL_EXPECT(entry.bytes >= 0 && entry.name.size() <= kLongestName && entry.name.find('\0') == std::string::npos,
                   ExitCode::checkpoint,
                   text("entry '", entry.name.c_str(), "' of '", path.string(), "' cannot be written"),
                   "its name or size does not fit into a zip archive", "");
    const auto bytes = static_cast<zip_uint64_t>(entry.bytes);
    feeds.push_back({&handover, bytes, bytes, {}});
    zip_source_t* source = zip_source_function(archive, feed, &feeds.back());
    const zip_int64_t index =
        source == nullptr ? -1 : zip_file_add(archive, entry.name.c_str(), source, ZIP_FL_ENC_UTF_8);
    if (index < 0 && source != nullptr) zip_source_free(source);
    const auto placed = static_cast<zip_uint64_t>(index);
    constexpr zip_uint16_t first_of_january_1980 = (1 << 5) | 1;
    const bool added = index >= 0 && zip_set_file_compression(archive, placed, ZIP_CM_STORE, 0) == 0 &&
                       zip_file_set_dostime(archive, placed, 0, first_of_january_1980, 0) == 0;
    VITRAIL_EXPECT(added, ExitCode::checkpoint,
                   text("entry '", entry.name, "' of '", path.string(), "' cannot be written"), zip_strerror(archive),
                   "");
    left += entry.bytes;
  }

  /// The thread: libzip asks for all entries while it closes the archive.
  void run() noexcept {
    if (zip_close(archive) != 0) {
      refusal = zip_strerror(archive);
      zip_discard(archive);
    }
    handover.taker_leaves();
  }

  /// After the thread has ended, or given up.
  void report() const {
    if (target.failure) std::rethrow_exception(target.failure);
    if (refusal) cannot_write(*refusal);
  }

  std::filesystem::path path;
  RawWriter file;
  Target target;
  Handover handover;
  std::vector<EntryFeed> feeds;
  zip_t* archive = nullptr;  ///< the thread's, which frees it
  std::optional<std::string> refusal;
  std::int64_t left = 0;  ///< bytes that have not been given yet
  std::thread thread;
};

ZipWriter::ZipWriter(const std::filesystem::path& path, const std::vector<Entry>& entries)
    : contents_(std::make_unique<Contents>(path, entries)) {}
ZipWriter::~ZipWriter() = default;

void ZipWriter::write(const void* bytes, std::int64_t count) {
  Contents& zip = *contents_;
  if (count > zip.left) zip.cannot_write(text(count - zip.left, " bytes more than its entries have"));
  if (count <= 0) return;
  zip.left -= count;
  if (zip.handover.give({static_cast<const std::byte*>(bytes), static_cast<std::size_t>(count)})) return;
  zip.report();
  zip.cannot_write("libzip has ended early");
}

void ZipWriter::finish() {
  Contents& zip = *contents_;
  if (zip.left > 0) zip.cannot_write(text(zip.left, " bytes of its entries are missing"));
  zip.handover.giver_leaves();
  if (zip.thread.joinable()) zip.thread.join();
  zip.report();
  zip.file.seal();
  zip.file.publish();
}

}  // namespace vitrail
