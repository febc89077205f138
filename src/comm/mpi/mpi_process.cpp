#include <mpi.h>

#include "comm/process.hpp"

namespace vitrail {

namespace {

bool mpi_is_running() noexcept {
  int initialised = 0;
  int finalised = 0;
  MPI_Initialized(&initialised);
  MPI_Finalized(&finalised);
  return initialised != 0 && finalised == 0;
}

}  // namespace

ProcessRank rank_of_process() noexcept {
  ProcessRank mine;
  if (mpi_is_running()) {
    MPI_Comm_rank(MPI_COMM_WORLD, &mine.rank);
    MPI_Comm_size(MPI_COMM_WORLD, &mine.size);
  }
  return mine;
}

// Only MPI_Abort carries a code through srun.
void abort_all_ranks(int status) noexcept {
  if (mpi_is_running()) MPI_Abort(MPI_COMM_WORLD, status);
}

}  // namespace vitrail
