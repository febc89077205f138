#pragma once
// vitrail-doctor: the ranks together. MPI, its speed, clocks, what must be the same on all of them, time to start.

#include <string>
#include <vector>

#include "apps/doctor.hpp"
#include "comm/communicator.hpp"
#include "comm/launcher.hpp"

namespace vitrail {

/// Times of exchanges, of the slowest rank, in seconds: medians.
struct ExchangeSeen {
  double barrier = 0;
  double small = 0;  ///< an all-to-all of 1 KiB from each rank to each
  double large = 0;  ///< of 256 KiB
};
/// Collective.
ExchangeSeen see_exchange(Communicator& world);
Finding judge_exchange(const ExchangeSeen& seen, int ranks);

/// Whether the world is what the launcher started. `library`: MpiSession::library_version().
Finding judge_world(const std::string& library, const Launch& launch, int ranks);

/// Seconds between the clocks of the first and the last rank, read at the same time, and how well that time is the
/// same. Collective.
struct ClocksSeen {
  double apart = 0;
  double doubt = 0;
};
ClocksSeen see_clocks(Communicator& world);
Finding judge_clocks(const ClocksSeen& seen);

/// Seconds from the start of each rank's process to after the initialisation of MPI.
Finding judge_start(const std::vector<double>& seconds);

/// What every rank must have the same of: this program, a library. `what`: "HDF5"; `of_ranks`: "1.10.8".
Finding judge_alike(const std::string& check, const std::string& what, const std::vector<std::string>& of_ranks,
                    const std::vector<std::string>& hosts, const std::string& advice);

}  // namespace vitrail
