#include "apps/doctor_node.hpp"

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <map>
#include <optional>
#include <set>
#include <sstream>
#include <utility>

#include <sys/resource.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "apps/checkpoint_listing.hpp"
#include "apps/cpu_binding.hpp"
#include "ops/cpu/cpu_isa.hpp"

namespace vitrail {

namespace {

constexpr std::int64_t kMiB = std::int64_t{1} << 20;
constexpr std::int64_t kGiB = std::int64_t{1} << 30;
constexpr std::int64_t kMostCores = 1 << 16;

/// The first line of a file that begins with `key`, behind it; nothing if there is none.
std::optional<std::string> line_after(const std::string& path, const std::string& key) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with(key)) return line.substr(key.size());
  }
  return std::nullopt;
}

/// "MemTotal:  16316412 kB" as bytes.
std::int64_t memory_of(const std::string& key) {
  const auto found = line_after("/proc/meminfo", key + ":");
  return found ? 1024 * std::strtoll(found->c_str(), nullptr, 10) : -1;
}

/// The folder of this process' control group (version 2); empty where there is none.
std::string control_group() {
  const auto found = line_after("/proc/self/cgroup", "0::");
  return found ? "/sys/fs/cgroup" + *found : "";
}

/// The smallest number that `read` finds in this process' control group and those above it.
template <class Number, class Read>
Number smallest_of_groups(Number none, const Read& read) {
  Number smallest = none;
  for (std::string group = control_group(); group.size() >= std::string("/sys/fs/cgroup").size();
       group.erase(group.rfind('/'))) {
    smallest = std::min(smallest, read(group));
  }
  return smallest;
}

std::int64_t limit_of(decltype(RLIMIT_CORE) which) {
  struct rlimit limit {};
  if (getrlimit(which, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return kUnlimited;
  return static_cast<std::int64_t>(std::min<rlim_t>(limit.rlim_cur, static_cast<rlim_t>(kUnlimited)));
}

std::string cores_text(std::size_t cores) { return text(cores, cores == 1 ? " core" : " cores"); }
std::string ranks_text(std::size_t ranks) { return text(ranks, ranks == 1 ? " rank" : " ranks"); }

/// A set of cores that more ranks are confined to than it has cores.
struct Crowd {
  std::vector<int> cpus;
  std::size_t ranks = 0;
};

std::optional<Crowd> worst_crowd(const std::vector<Pinning>& ranks) {
  std::optional<Crowd> worst;
  for (const Pinning& one : ranks) {
    Crowd crowd{one.cpus, 0};
    for (const Pinning& other : ranks) {
      if (std::includes(one.cpus.begin(), one.cpus.end(), other.cpus.begin(), other.cpus.end())) ++crowd.ranks;
    }
    if (crowd.ranks <= crowd.cpus.size()) continue;
    if (!worst || crowd.ranks * worst->cpus.size() > worst->ranks * crowd.cpus.size()) worst = crowd;
  }
  return worst;
}

}  // namespace

// --- what is seen ----------------------------------------------------------------------------------------------------

ProcessorSeen see_processor() {
  ProcessorSeen seen;
  const auto model = line_after("/proc/cpuinfo", "model name");
  seen.model = model && model->find(": ") != std::string::npos ? model->substr(model->find(": ") + 2) : "processor";
  seen.isa_level = cpu_isa_level();
  return seen;
}

LimitsSeen see_limits() {
  return {.locked = limit_of(RLIMIT_MEMLOCK),
          .files = limit_of(RLIMIT_NOFILE),
          .core = limit_of(RLIMIT_CORE),
          .file_size = limit_of(RLIMIT_FSIZE),
          .address = limit_of(RLIMIT_AS),
          .stack = limit_of(RLIMIT_STACK)};
}

MemorySeen see_memory() {
  MemorySeen seen;
  seen.total = memory_of("MemTotal");
  seen.available = memory_of("MemAvailable");
  seen.cgroup_limit = smallest_of_groups(kUnlimited, [](const std::string& group) {
    std::ifstream file(group + "/memory.max");
    std::int64_t bytes = 0;
    return file >> bytes ? bytes : kUnlimited;
  });
  struct statvfs shm {};
  if (statvfs("/dev/shm", &shm) == 0) seen.shared_free = static_cast<std::int64_t>(shm.f_bavail * shm.f_frsize);
  return seen;
}

Pinning see_pinning(std::string host) {
  return {std::move(host), bound_cpus(), static_cast<int>(std::max(1L, sysconf(_SC_NPROCESSORS_ONLN)))};
}

double see_cpu_quota() {
  constexpr double none = 1e9;
  const double quota = smallest_of_groups(none, [](const std::string& group) {
    std::ifstream file(group + "/cpu.max");
    double time = 0;
    double period = 0;
    return file >> time >> period && period > 0 ? time / period : none;
  });
  return quota < none ? quota : -1;
}

// --- what is judged --------------------------------------------------------------------------------------------------

Finding judge_processor(const ProcessorSeen& seen, int lowest_level) {
  const std::string said = text(seen.model, ", instruction set ", cpu_isa_name(seen.isa_level),
                                seen.isa_level >= 4   ? " (multiplies bf16)"
                                : seen.isa_level == 3 ? " (bf16 is emulated)"
                                                      : "");
  if (seen.isa_level > lowest_level) {
    return warn("cpu", text(said, ", but ", cpu_isa_name(lowest_level), " on another node"),
                "All ranks compute with the lowest, so that they compute the same bits; use nodes of one kind");
  }
  if (seen.isa_level < 2) {
    return warn("cpu", said, "Without AVX2 training is many times slower. Is it a virtual machine that hides it?");
  }
  return ok("cpu", said);
}

Findings judge_limits(const LimitsSeen& seen) {
  Findings findings;
  const auto size = [](std::int64_t bytes) { return bytes == kUnlimited ? "unlimited" : size_text(bytes); };
  if (seen.locked < 64 * kMiB) {
    findings.push_back(warn("limits", text("locked memory ", size(seen.locked), " (ulimit -l)"),
                            "InfiniBand and GPUs lock memory: ask for unlimited, in /etc/security/limits.d and, under "
                            "Slurm, with PropagateResourceLimitsExcept=MEMLOCK"));
  }
  if (seen.files < 1024) {
    findings.push_back(bad("limits", text(seen.files, " open files (ulimit -n)"),
                           "Shards, part files and connections are files: ulimit -n 65536"));
  } else if (seen.files < 4096) {
    findings.push_back(warn("limits", text(seen.files, " open files (ulimit -n)"),
                            "Jobs of hundreds of ranks need more: ulimit -n 65536"));
  }
  if (seen.file_size != kUnlimited) {
    findings.push_back(bad("limits", text("files of at most ", size(seen.file_size), " (ulimit -f)"),
                           "Checkpoints are larger: ulimit -f unlimited"));
  }
  if (seen.address != kUnlimited) {
    findings.push_back(warn("limits", text("address space ", size(seen.address), " (ulimit -v)"),
                            "Libraries reserve much more than they use: ulimit -v unlimited"));
  }
  if (seen.stack < 8 * kMiB) {
    findings.push_back(warn("limits", text("stack ", size(seen.stack), " (ulimit -s)"), "ulimit -s 8192"));
  }
  if (findings.empty()) {
    findings.push_back(ok("limits", text("locked memory ", size(seen.locked), ", ",
                                         seen.files == kUnlimited ? "unlimited" : std::to_string(seen.files),
                                         " open files, core files ", seen.core == 0 ? "off" : size(seen.core))));
  }
  return findings;
}

Findings judge_memory(const MemorySeen& seen, int ranks_of_node) {
  Findings findings;
  const std::int64_t usable = std::min(seen.total < 0 ? kUnlimited : seen.total, seen.cgroup_limit);
  const std::int64_t free = std::min(seen.available < 0 ? usable : seen.available, usable);
  std::string said = seen.total < 0 ? "the system does not tell its size" : size_text(seen.total);
  if (seen.cgroup_limit < seen.total) said += text(", of which the job may use ", size_text(seen.cgroup_limit));
  if (seen.available >= 0) said += text(", ", size_text(seen.available), " free");
  said += text(" for ", ranks_text(static_cast<std::size_t>(ranks_of_node)));
  if (free / ranks_of_node < kGiB) {
    findings.push_back(warn("memory", said, "Less than 1 GiB for a rank: use fewer ranks, or more nodes"));
  } else {
    findings.push_back(ok("memory", said));
  }
  if (seen.shared_free >= 0 && ranks_of_node > 1 && seen.shared_free < 64 * kMiB) {
    findings.push_back(warn("memory", text(size_text(seen.shared_free), " free in /dev/shm"),
                            "Ranks of a node exchange through it; in a container: --shm-size=1g"));
  }
  return findings;
}

Findings judge_pinning(const std::vector<Pinning>& ranks) {
  Findings findings;
  std::map<std::string, std::vector<Pinning>> of_hosts;
  for (const Pinning& one : ranks) of_hosts[one.host].push_back(one);
  for (const auto& [host, here] : of_hosts) {
    const auto crowd = worst_crowd(here);
    if (!crowd) continue;
    std::set<int> used;
    for (const Pinning& one : here) used.insert(one.cpus.begin(), one.cpus.end());
    const std::string said = text(ranks_text(crowd->ranks), " of ", host, " share ", cores_text(crowd->cpus.size()),
                                  " (", cpu_list(crowd->cpus), ") of ", here.front().online);
    if (crowd->cpus.size() == 1 && here.front().online > 1) {
      findings.push_back(bad("pinning", said,
                             "Give each rank cores of its own: mpirun --bind-to core, or srun --cpu-bind=cores with "
                             "--cpus-per-task; or do not pin: --bind-to none"));
    } else {
      findings.push_back(warn("pinning", said, "Start as many ranks as there are cores, or fewer with --threads"));
    }
  }
  if (!findings.empty()) return findings;
  std::size_t fewest = ranks.front().cpus.size();
  std::size_t most = fewest;
  for (const Pinning& one : ranks) {
    fewest = std::min(fewest, one.cpus.size());
    most = std::max(most, one.cpus.size());
  }
  findings.push_back(
      ok("pinning", text(ranks_text(ranks.size()), " on ", of_hosts.size(), of_hosts.size() == 1 ? " node" : " nodes",
                         ", each may use ", fewest == most ? cores_text(most) : text(fewest, " to ", cores_text(most)),
                         " of ", ranks.front().online)));
  return findings;
}

Findings judge_cpu_quota(double quota, int ranks_of_node, int cores) {
  if (quota < 0 || quota >= cores) return {};
  const std::string said = text("a quota of ", quota, " cores for ", cores_text(static_cast<std::size_t>(cores)));
  if (quota >= ranks_of_node) return {ok("pinning", said)};
  return {warn("pinning", text(said, " and ", ranks_text(static_cast<std::size_t>(ranks_of_node))),
               "The container stops ranks in turn: raise its --cpus, or start fewer ranks")};
}

std::string cpu_list(const std::vector<int>& cpus) {
  std::string list;
  for (std::size_t i = 0; i < cpus.size();) {
    std::size_t end = i + 1;
    while (end < cpus.size() && cpus[end] == cpus[end - 1] + 1) ++end;
    list += text(list.empty() ? "" : ",", cpus[i]);
    if (end - i > 1) list += text("-", cpus[end - 1]);
    i = end;
  }
  return list;
}

std::vector<int> cpus_of_list(const std::string& list) {
  std::vector<int> cpus;
  std::istringstream ranges(list);
  for (std::string range; std::getline(ranges, range, ',');) {
    char* end = nullptr;
    const long first = std::strtol(range.c_str(), &end, 10);
    const long last = *end == '-' ? std::strtol(end + 1, &end, 10) : first;
    if (range.empty() || *end != '\0' || first < 0 || last < first || last >= kMostCores) return {};
    for (long cpu = first; cpu <= last; ++cpu) cpus.push_back(static_cast<int>(cpu));
  }
  return cpus;
}

}  // namespace vitrail
