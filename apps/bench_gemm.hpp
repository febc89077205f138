#pragma once
// vitrail-bench gemm.

#include "comm/mpi/mpi.hpp"

namespace vitrail {

/// The matrix products of a model against the machine's peak. The words are those behind "gemm". Without a session:
/// only
/// --help.
int bench_gemm(MpiSession* session, int argc, const char* const* argv);

}  // namespace vitrail
