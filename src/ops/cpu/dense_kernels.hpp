#pragma once
// Vector kernels of the dense layers, on runs of rows. Single-threaded; compiled for several instruction sets and
// chosen at run time (Highway). None writes past its last element; y may be x (or what is said), nothing else overlaps.

#include <cstdint>

#include "ops/cpu/elements.hpp"

namespace vitrail::cpu {

/// y[r] = bias + residual[r]; either may be left out (nullptr), then it counts as 0. y may be residual.
void start_rows(const float* bias, ConstElements residual, float* y, std::int64_t rows, std::int64_t n);
/// sums[c] = sum over the rows of x[r * stride + c], c = 0 .. n-1, rows ascending.
void column_sums(ConstElements x, std::int64_t stride, std::int64_t rows, std::int64_t n, float* sums);
/// The same, added to what sums hold.
void add_column_sums(ConstElements x, std::int64_t stride, std::int64_t rows, std::int64_t n, float* sums);
/// y += x
void add_into(const float* x, float* y, std::int64_t n);
void tanh_run(const float* x, float* y, std::int64_t n);
/// dx = dy (1 - y^2); dx may be dy.
void tanh_run_backward(const float* dy, const float* y, float* dx, std::int64_t n);

/// One run of rows of a LayerNorm, eps = 1e-6.
struct LayernormRows {
  ConstElements x;     // [rows n]
  const float* scale;  // [n]
  const float* bias;   // [n], or nullptr
  Elements y;          // [rows n]
  float* mean;         // [rows]
  float* rstd;         // [rows]
  std::int64_t rows;
  std::int64_t n;
};
void layernorm_rows(const LayernormRows& a);
struct LayernormRowsBackward {
  ConstElements dy;
  ConstElements x;
  const float* scale;
  const float* mean;
  const float* rstd;
  const float* dresidual;  // or nullptr; may be dx
  Elements dx;             // may be dy
  float* dscale;           // [n], overwritten: the sum over these rows
  float* dbias;            // [n]
  std::int64_t rows;
  std::int64_t n;
};
void layernorm_rows_backward(const LayernormRowsBackward& a);

}  // namespace vitrail::cpu
