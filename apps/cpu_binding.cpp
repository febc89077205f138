#include "apps/cpu_binding.hpp"

#include <array>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <set>

#include <sched.h>

#include "base/error.hpp"

namespace vitrail {

namespace {

constexpr int kMostCpus = 1 << 16;
using CpuSet = std::array<cpu_set_t, kMostCpus / CPU_SETSIZE>;

bool bind_to(const std::vector<int>& cpus) {
  CpuSet set{};
  for (const int cpu : cpus) CPU_SET_S(static_cast<std::size_t>(cpu), sizeof set, set.data());
  return sched_setaffinity(0, sizeof set, set.data()) == 0;
}

/// The first CPU of the same core; the CPU itself where the system does not tell.
int first_of_core(int cpu) {
  std::ifstream siblings(text("/sys/devices/system/cpu/cpu", cpu, "/topology/thread_siblings_list"));
  int first = cpu;
  return siblings >> first ? first : cpu;
}

}  // namespace

std::vector<int> bound_cpus() {
  CpuSet set{};
  std::vector<int> cpus;
  if (sched_getaffinity(0, sizeof set, set.data()) != 0) return cpus;
  for (int cpu = 0; cpu < kMostCpus; ++cpu) {
    if (CPU_ISSET_S(static_cast<std::size_t>(cpu), sizeof set, set.data())) cpus.push_back(cpu);
  }
  return cpus;
}

std::optional<MpirunRank> rank_bound_by_default(const std::function<const char*(const char*)>& variable) {
  // Each is set when the user, a site's file or another variable has said something.
  for (const char* told :
       {"OMPI_MCA_hwloc_base_binding_policy", "OMPI_MCA_rmaps_base_mapping_policy", "OMPI_MCA_rmaps_base_cpus_per_rank",
        "OMPI_MCA_hwloc_base_cpu_list", "OMPI_MCA_hwloc_base_cpu_set"}) {
    if (variable(told) != nullptr) return std::nullopt;
  }
  if (variable("OMPI_MCA_orte_bound_at_launch") == nullptr) return std::nullopt;
  const auto number = [&](const char* name) {
    const char* const value = variable(name);
    return value == nullptr ? -1 : static_cast<int>(std::strtol(value, nullptr, 10));
  };
  const MpirunRank rank{number("OMPI_COMM_WORLD_SIZE"), number("OMPI_COMM_WORLD_LOCAL_SIZE"),
                        number("OMPI_COMM_WORLD_LOCAL_RANK")};
  if (rank.local_ranks < 1 || rank.local_rank < 0 || rank.local_rank >= rank.local_ranks) return std::nullopt;
  return rank;
}

std::vector<int> by_cores(std::vector<int> cpus, const std::function<int(int)>& core_of) {
  std::vector<int> ordered;
  while (!cpus.empty()) {
    std::set<int> seen;
    std::vector<int> rest;
    for (const int cpu : cpus) (seen.insert(core_of(cpu)).second ? ordered : rest).push_back(cpu);
    cpus = std::move(rest);
  }
  return ordered;
}

std::optional<std::vector<int>> cpus_for_threads(const MpirunRank& rank, int threads, const std::vector<int>& bound,
                                                 const std::vector<int>& all) {
  constexpr int kBoundToCores = 2;  // Open MPI: so many ranks of a job, at most; they may have CPUs enough, of one core
  if (threads == 1 || (rank.ranks > kBoundToCores && std::ssize(bound) >= threads)) return std::nullopt;
  if (std::ssize(all) < std::ptrdiff_t{rank.local_ranks} * threads) return all;
  const auto first = all.begin() + std::ptrdiff_t{rank.local_rank} * threads;
  return std::vector<int>(first, first + threads);
}

void give_threads_their_cpus(int threads) {
  const std::optional<MpirunRank> rank = rank_bound_by_default(std::getenv);
  const std::vector<int> bound = bound_cpus();
  if (!rank || threads == 1 || bound.empty()) return;
  // What a process may use at all is what is left when it asks for everything.
  std::vector<int> everything(kMostCpus);
  for (int cpu = 0; cpu < kMostCpus; ++cpu) everything[static_cast<std::size_t>(cpu)] = cpu;
  if (!bind_to(everything)) return;
  const auto chosen = cpus_for_threads(*rank, threads, bound, by_cores(bound_cpus(), first_of_core));
  (void)bind_to(chosen.value_or(bound));
}

}  // namespace vitrail
