#pragma once
// Vector kernels of Soft MoE; see ops/routing.hpp for what they compute. Shapes are of one group: S tokens, R slots.

#include <cstdint>

namespace vitrail::cpu {

/// rnorm[r] = 1 / sqrt(sum of squares of the row + 1e-6)
void row_rnorms(const float* x, std::int64_t rows, std::int64_t n, float* rnorm);
/// The same of columns 0 .. n-1 of x, whose rows lie `stride` apart; rows ascending.
void column_rnorms(const float* x, std::int64_t stride, std::int64_t rows, std::int64_t n, float* rnorm);

/// Both softmaxes of z = scale * x_rnorm * mu_rnorm * product + sigma * noise.
struct SoftWeights {
  const float* x_rnorm;       // [S]
  const float* mu_rnorm;      // [R]
  const float* noise;         // [S R], or nullptr
  const std::uint8_t* valid;  // [S], or nullptr
  float* columns;             // [2 R]: scratch
  float* dispatch;            // [S R]
  float* combine;             // [S R]; on entry the product x mu
  std::int64_t tokens, slots;
  float scale, sigma;
};
void soft_weights(const SoftWeights& a);

/// dlogits = d loss / d z * x_rnorm * mu_rnorm
struct SoftWeightsBackward {
  const float* ddispatch;  // [S R]
  const float* dcombine;   // [S R]
  const float* dispatch;   // [S R]
  const float* combine;    // [S R]
  const float* x_rnorm;    // [S]
  const float* mu_rnorm;   // [R]
  float* columns;          // [R]: scratch
  float* dlogits;          // [S R]; may be ddispatch
  std::int64_t tokens, slots;
};
void soft_weights_backward(const SoftWeightsBackward& a);

/// dx = dresidual + scale (d - xh <xh, d>), xh = x x_rnorm, for every row.
struct SoftInputBackward {
  const float* d;          // [rows n]: dlogits mu^T
  const float* x;          // [rows n]
  const float* x_rnorm;    // [rows]
  const float* dresidual;  // [rows n], or nullptr; may be dx
  float* dx;               // [rows n]
  std::int64_t rows, n;
  float scale;
};
void soft_input_backward(const SoftInputBackward& a);

/// d = scale (d - muh <muh, d over the rows>), muh = mu mu_rnorm, in place; returns dscale = <mu, d> of before.
struct SoftSlotsBackward {
  const float* mu;        // [D R]
  const float* mu_rnorm;  // [R]
  float* columns;         // [R]: scratch
  float* d;               // [D R]; on entry x^T dlogits
  std::int64_t width, slots;
  float scale;
};
float soft_slots_backward(const SoftSlotsBackward& a);

}  // namespace vitrail::cpu
