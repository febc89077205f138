#pragma once
// The one place that looks at the return codes of MPI. Every communicator has MPI_ERRORS_RETURN.

#include <source_location>

#include <mpi.h>

namespace vitrail {

/// Error (other) with MPI's own text and the place of the call, unless `rc` is MPI_SUCCESS.
void check(int rc, std::source_location where = std::source_location::current());

}  // namespace vitrail
