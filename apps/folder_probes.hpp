#pragma once
// What one process can see of a file system: whether small files appear, renames are atomic, locks hold, and how fast
// it is. doctor_files has several processes do so together.

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "base/file.hpp"
#include "base/unique_handle.hpp"

namespace vitrail {

using FileDescriptor = UniqueHandle<DescriptorTraits>;

/// Readers and writers of a folder give each other so many seconds: network file systems show new files to other nodes
/// late.
inline constexpr double kFolderPatience_s = 10;

/// A small file as a whole; nothing if it cannot be read, for the reason in errno.
std::optional<std::string> content_of(const std::filesystem::path& path);
/// False if it cannot, for the reason in errno.
bool write_small(const std::filesystem::path& path, const std::string& content);

// --- rename ----------------------------------------------------------------------------------------------------------

inline constexpr int kRenames = 200;

/// Replaces the file kRenames times by another of the same size. Why it failed; empty: it did not.
std::string replace_again_and_again(const std::filesystem::path& path);
/// Before that: the file that is replaced.
bool write_first_to_be_replaced(const std::filesystem::path& path);

/// What a reader saw meanwhile.
struct RenamesSeen {
  std::int64_t reads = 0;
  std::int64_t torn = 0;     ///< neither the old nor the new content
  std::int64_t missing = 0;  ///< no file of the name
};
/// Reads until the last of the files is there, or kFolderPatience_s are over.
RenamesSeen watch_renames(const std::filesystem::path& path);

// --- locks -----------------------------------------------------------------------------------------------------------

enum class LockKind { posix, flock };

/// What a process saw of a lock that another one held.
enum class LockSeen : int {
  held,     ///< it is somebody else's, as it should be
  free,     ///< nobody's: locks do not reach this process
  refused,  ///< the file system has no locks
};

/// Makes the file and locks it, as long as the descriptor lives. Null, for the reason in errno, if it cannot.
FileDescriptor take_lock(const std::filesystem::path& path, LockKind kind);
/// What this process sees of the lock; not that of its own.
LockSeen see_lock(const std::filesystem::path& path, LockKind kind);
/// The same for a child of this process: locks are between processes.
LockSeen see_lock_from_a_child(const std::filesystem::path& path, LockKind kind);

// --- speed -----------------------------------------------------------------------------------------------------------

/// Seconds for forcing a small file and its folder to disk; nothing, for the reason in errno, if that is impossible.
std::optional<double> sync_time(const std::filesystem::path& folder);

struct SpeedSeen {
  double write_s = 0;        ///< disk included
  double read_s = 0;         ///< after the system was asked to forget the file
  double ahead_s = 0;        ///< of the file system's clock, before that of this process
  std::string problem = {};  ///< "cannot write: No space left on device"; empty: none
};
/// Writes a file of so many bytes, which depend on `salt`, reads it back and compares.
SpeedSeen write_and_read(const std::filesystem::path& path, std::int64_t bytes, int salt);

}  // namespace vitrail
