#pragma once
// vitrail-bench step.

#include "comm/mpi/mpi.hpp"

namespace vitrail {

/// Whole training steps on a resident batch. The words are those behind "step". Without a session: only --help, which
/// works without MPI.
int bench_step(MpiSession* session, int argc, const char* const* argv);

}  // namespace vitrail
