#pragma once
// Results of timed matrix products against plain loops in double, on a sample of entries.

#include <string>

#include "ops/ops.hpp"

namespace vitrail {

/// Error (numbers) that names `what` when a sampled entry of a result differs by more than rounding explains (of f32
/// sums, and of a result in bf16), of products whose inputs are rounded to `precision`. Tensors of `device`, f32 or
/// bf16; calls without residual.
void check_linear(Device& device, const LinearForward& call, Precision precision, const std::string& what);
void check_linear(Device& device, const LinearBackward& call, Precision precision, const std::string& what);

}  // namespace vitrail
