#pragma once
// vitrail-bench layouts.

namespace vitrail {

/// Times vitrail-bench step with the CPUs of this machine shared out among ranks and threads in every way, in turn, and
/// names the fastest. The words are those behind "layouts". Not to be called under MPI: it starts mpirun itself.
int bench_layouts(int argc, const char* const* argv);

}  // namespace vitrail
