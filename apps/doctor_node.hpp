#pragma once
// vitrail-doctor: processor, memory, limits and pinning.

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "apps/doctor.hpp"

namespace vitrail {

inline constexpr std::int64_t kUnlimited = std::numeric_limits<std::int64_t>::max();

// --- what is seen ----------------------------------------------------------------------------------------------------

struct ProcessorSeen {
  std::string model;
  int isa_level = 0;  ///< cpu_isa_level()
};
ProcessorSeen see_processor();

/// Of this process; kUnlimited where there is none. Bytes but for files.
struct LimitsSeen {
  std::int64_t locked = kUnlimited;     ///< ulimit -l
  std::int64_t files = kUnlimited;      ///< ulimit -n: open at the same time
  std::int64_t core = 0;                ///< ulimit -c
  std::int64_t file_size = kUnlimited;  ///< ulimit -f
  std::int64_t address = kUnlimited;    ///< ulimit -v
  std::int64_t stack = kUnlimited;      ///< ulimit -s
};
LimitsSeen see_limits();

/// Bytes of the node; -1 where the system does not tell.
struct MemorySeen {
  std::int64_t total = -1;
  std::int64_t available = -1;
  std::int64_t cgroup_limit = kUnlimited;  ///< of the job's control group
  std::int64_t shared_free = -1;           ///< in /dev/shm, through which ranks of a node exchange
};
MemorySeen see_memory();

/// Where a rank may run.
struct Pinning {
  std::string host;
  std::vector<int> cpus;  ///< numbers of the cores that it may use, ascending
  int online = 1;         ///< cores of the node
};
Pinning see_pinning(std::string host);
/// Cores that the job's control group may use at the same time, such as 1.5; a negative number: as many as there are.
double see_cpu_quota();

// --- what is judged --------------------------------------------------------------------------------------------------

/// `lowest_level`: of all ranks' instruction sets.
Finding judge_processor(const ProcessorSeen& seen, int lowest_level);
Findings judge_limits(const LimitsSeen& seen);
/// Of a node with so many ranks.
Findings judge_memory(const MemorySeen& seen, int ranks_of_node);
/// Of all ranks. Several ranks pinned to one core of many are bad; more ranks than cores are worth a warning.
Findings judge_pinning(const std::vector<Pinning>& ranks);
/// Of a node with so many ranks, which may use so many different cores.
Findings judge_cpu_quota(double quota, int ranks_of_node, int cores);

/// "0-3,8" for 0 1 2 3 8, and back (other texts: none).
std::string cpu_list(const std::vector<int>& cpus);
std::vector<int> cpus_of_list(const std::string& list);

}  // namespace vitrail
