#pragma once
// What is known about the processes of a job without a communicator. comm/mpi answers, or no_mpi.cpp.

#include <string>

namespace vitrail {

struct ProcessRank {
  int rank = 0;
  int size = 1;
};

/// This process among those of the job; rank 0 of 1 before MPI has been initialised.
ProcessRank rank_of_process() noexcept;

/// The name of this machine up to the first dot, for messages; "unknown host" when it has none.
std::string host_name();

/// Ends all ranks with this exit status, where MPI connects them, also from another thread than the one that
/// communicates. Returns when there is nothing that does.
void abort_all_ranks(int status) noexcept;

}  // namespace vitrail
