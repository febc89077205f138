#pragma once
// Vector kernels of the router's losses, in double; see router_loss_verbs.cpp.

#include <cstdint>

namespace vitrail::cpu {

/// y[i] = erfc((x[i] - z[i]) * scale)
void erfc_run(const double* x, const float* z, double scale, double* y, std::int64_t n);
/// y[i] = exp(-((x[i] - z[i]) * scale)^2)
void bell_run(const double* x, const float* z, double scale, double* y, std::int64_t n);
/// y[i] = exp(z[i] - x[i]), z <= x
void exp_run(const double* x, const float* z, double* y, std::int64_t n);
/// y[i] = ln x[i], x normal and > 0; NaN stays NaN
void log_run(const double* x, double* y, std::int64_t n);

}  // namespace vitrail::cpu
