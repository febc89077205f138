#pragma once
// Errors of the CUDA runtime as ours.

#include <source_location>

#include <cuda_runtime.h>

#include "base/error.hpp"

namespace vitrail::cuda {

/// Throws an Error that names the failed call's place when rc is not cudaSuccess: exit code usage when memory ran out
/// or this build has no code for this GPU, else other. What is not the caller's fault (an error of an earlier kernel)
/// shows up here too: the text says so, and Fault::late is set.
void check(cudaError_t rc, std::source_location where = std::source_location::current());

/// CUDA_LAUNCH_BLOCKING=1: a kernel is done when its launch returns, so that its errors are seen there. CUDA obeys it
/// by itself, but in a graph.
bool launches_block();

}  // namespace vitrail::cuda
