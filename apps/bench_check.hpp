#pragma once
// Results of timed matrix products against plain loops in double, on a sample of entries.

#include <string>

#include "ops/ops.hpp"

namespace vitrail {

/// Error (numbers) that names `what` when a sampled entry of a result differs by more than f32 rounding explains, of
/// products whose inputs are rounded to `precision`. f32 tensors; calls without residual.
void check_linear(const LinearForward& call, Precision precision, const std::string& what);
void check_linear(const LinearBackward& call, Precision precision, const std::string& what);

}  // namespace vitrail
