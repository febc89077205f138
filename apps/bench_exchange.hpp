#pragma once
// vitrail-bench exchange.

#include "comm/mpi/mpi.hpp"

namespace vitrail {

/// All-to-all exchanges among the ranks that share experts. The words are those behind "exchange". Without a session:
/// only --help.
int bench_exchange(MpiSession* session, int argc, const char* const* argv);

}  // namespace vitrail
