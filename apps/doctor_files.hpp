#pragma once
// vitrail-doctor: the file system of a run, as all ranks see it.

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "apps/doctor.hpp"
#include "apps/folder_probes.hpp"
#include "comm/communicator.hpp"

namespace vitrail {

/// Looks at `folder` by writing into a folder of its own in it, which is removed again. Collective. `bytes`: of the
/// file that each rank writes and reads to see how fast that is.
Findings check_folder(Communicator& world, const std::vector<std::string>& hosts, const std::filesystem::path& folder,
                      std::int64_t bytes);

// --- what is judged --------------------------------------------------------------------------------------------------

Finding judge_space(std::int64_t free_bytes, std::int64_t free_files);
/// `name`: "POSIX locks", "flock"; what other processes saw, of this node and of others.
Finding judge_lock(const std::string& name, const std::vector<LockSeen>& seen, bool hdf5_locks_off);
/// Seconds of each rank for writing `bytes` to disk, and for reading them.
Finding judge_speed(std::int64_t bytes, const std::vector<double>& write_s, const std::vector<double>& read_s);
/// The median of many fsyncs of a small file, in seconds.
Finding judge_sync(double seconds);
/// Seconds by which the file system's clock is before (negative: behind) a rank's, each.
Finding judge_file_clock(const std::vector<double>& ahead_s);

}  // namespace vitrail
