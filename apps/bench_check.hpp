#pragma once
// Results of timed matrix products against plain loops in double, on a sample of entries.

#include <string>

#include "ops/layers.hpp"

namespace vitrail {

/// Error (numbers) that names `what` when a sampled entry of a result differs by more than f32 rounding explains.
/// f32 tensors; calls without residual.
void check_linear(const LinearForward& call, const std::string& what);
void check_linear(const LinearBackward& call, const std::string& what);

}  // namespace vitrail
