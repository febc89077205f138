#pragma once
// What every program that computes on ranks does before its work.

#include <memory>
#include <string>

#include "base/log.hpp"
#include "comm/communicator.hpp"
#include "ops/ops.hpp"
#include "train/run_config.hpp"

namespace vitrail {

/// True when --help or --version stands among the words: these work without MPI.
bool wants_manual(int argc, const char* const* argv);

/// Of --precision NAME with --backend NAME. Error (usage) for one that the back end has not got.
Precision precision_of(const std::string& backend, const std::string& precision);

/// The back end of a run, on the lowest instruction set of all ranks, so that all compute the same bits. Collective.
/// Error (usage) for an unknown back end or precision.
std::unique_ptr<Ops> make_ops(const RunConfig& config, Communicator& world);

/// Giga floating-point operations per second of all ranks' matrix products at the same time, best of several: the
/// ceiling of a training step. Takes about half a second. Collective.
double measure_gemm_peak(int threads, Precision precision, Communicator& world);

}  // namespace vitrail
