#pragma once
// Vector kernels on runs of elements, each treated alone. As in ops/cpu/dense_kernels.hpp.

#include <cstdint>

#include "ops/cpu/elements.hpp"
#include "ops/dropout_mask.hpp"

namespace vitrail::cpu {

/// factors[i] = what `mask` multiplies an element of index first + i by: the bits of DropoutMask::factors.
void dropout_factors(const DropoutMask& mask, std::uint64_t first, std::int64_t count, float* factors);
/// y = residual + factors * x. Left out (nullptr), x counts as 1 and residual as 0. y may be x or residual.
void add_scaled(const float* factors, ConstElements x, const float* residual, Elements y, std::int64_t n);

/// y[r] = x[r] of n elements; the rows of x lie `stride` apart. Rounding has the bits of to_bf16 of base/bf16.hpp.
void copy_rows(ConstElements x, std::int64_t stride, Elements y, std::int64_t rows, std::int64_t n);
inline void copy_run(ConstElements x, Elements y, std::int64_t n) { copy_rows(x, n, y, 1, n); }
inline void to_bf16_run(const float* x, Bf16* y, std::int64_t n) { copy_run(x, y, n); }
/// y = bf16(x) as f32. y may be x.
void round_run(const float* x, float* y, std::int64_t n);

/// y = before * y + weight * x
void scale_and_add(float before, float weight, const float* x, float* y, std::int64_t n);

}  // namespace vitrail::cpu
