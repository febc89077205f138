#pragma once
// What run_ranks asks about the processes of a job: comm/mpi answers, or no_mpi.cpp.

namespace vitrail {

struct ProcessRank {
  int rank = 0;
  int size = 1;
};

/// This process among those of the job; rank 0 of 1 before MPI has been initialised.
ProcessRank rank_of_process() noexcept;

/// Ends all ranks with this exit status, where MPI connects them. Returns when there is nothing that does.
void abort_all_ranks(int status) noexcept;

}  // namespace vitrail
