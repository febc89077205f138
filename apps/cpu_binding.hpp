#pragma once
// CPUs for the threads of a rank. Slurm and a user who binds ranks know how many they gave; mpirun, when nobody tells
// it anything, binds each of two ranks to one core and each of many to a package, and knows nothing of threads.

#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace vitrail {

/// The CPUs that the calling thread may run on, ascending; none where the system does not tell.
std::vector<int> bound_cpus();

/// A rank as mpirun of Open MPI tells it.
struct MpirunRank {
  int ranks = 1;        ///< of the job
  int local_ranks = 1;  ///< of this node
  int local_rank = 0;   ///< among those
};
/// None unless mpirun bound this rank, and by its own default. `variable` is std::getenv, but in tests.
std::optional<MpirunRank> rank_bound_by_default(const std::function<const char*(const char*)>& variable);

/// `cpus` in an order in which every core comes once before any comes again; `core_of` tells the core of a CPU.
std::vector<int> by_cores(std::vector<int> cpus, const std::function<int(int)>& core_of);

/// Where the threads of a rank should run that mpirun bound to `bound`: `threads` of `all` (by_cores), another run of
/// them for every rank of the node; all of them when they are too few. None: `bound` does.
std::optional<std::vector<int>> cpus_for_threads(const MpirunRank& rank, int threads, const std::vector<int>& bound,
                                                 const std::vector<int>& all);

/// Does so for the calling thread and all that it will start. Where mpirun has not chosen by default, or this is not
/// Linux, nothing.
void give_threads_their_cpus(int threads);

}  // namespace vitrail
