#pragma once
// What every program that computes on ranks does before and after its work.

#include "apps/machine.hpp"

namespace vitrail {

/// True when --help or --version stands among the words: these work without MPI.
bool wants_manual(int argc, const char* const* argv);

/// Giga floating-point operations per second of all ranks' matrix products at the same time, best of several: the
/// ceiling of a training step. Takes about half a second. 0 when a GPU has no memory left for it. Collective.
double measure_gemm_peak(const Machine& machine, int threads);

}  // namespace vitrail
