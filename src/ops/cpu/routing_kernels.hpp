#pragma once
// Vector kernels of the sparse layer, on runs of rows or tokens; see ops/routing.hpp for what they compute.

#include <cstdint>

#include "ops/cpu/elements.hpp"

namespace vitrail::cpu {

/// p[r] = softmax(x[r] + sigma * noise[r]) over n entries; noise may be nullptr, p may be x.
void softmax_rows(const float* x, const float* noise, float sigma, float* p, std::int64_t rows, std::int64_t n);

/// Rows or tokens begin .. end-1 of the whole tensors.
struct GatherRun {
  ConstElements x;
  const std::int32_t* source;
  std::int64_t choices;
  Elements y;
  std::int64_t begin, end, width;
};
void gather_run(const GatherRun& a);

/// y[t] = residual[t] + sum over j of gate[t,j] * o[row[t,j]]; without gates (nullptr) they count as 1.
struct CombineRun {
  ConstElements o;
  const std::int32_t* row;
  const float* gate;      // or nullptr
  const float* residual;  // or nullptr; may be y
  Elements y;
  std::int64_t begin, end, choices, width;
};
void combine_run(const CombineRun& a);

/// Of rows: d_o, and dgate of the assignments that they hold.
struct CombineRunBackward {
  const float* dy;
  ConstElements o;
  const std::int32_t* source;
  const float* gate;
  Elements d_o;  // may be o
  float* dgate;
  std::int64_t begin, end, choices, width;
};
void combine_run_backward(const CombineRunBackward& a);

}  // namespace vitrail::cpu
