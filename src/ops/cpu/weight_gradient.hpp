#pragma once
// dw = x^T dy and db = column sums of dy, summed over the leaves by their binary tree.

#include <cstdint>
#include <span>

#include "ops/cpu/workspace.hpp"

namespace vitrail::cpu {

struct WeightGradient {
  const float* x;   // [leaves E rows in]
  const float* dy;  // [leaves E rows out]
  float* dw;        // [E in out]
  float* db;        // [E out], or nullptr
};
struct WeightGradientShape {
  std::int64_t leaves, experts, rows, in, out;
};

/// Several gradients of one shape at once, so that all threads have work.
void weight_gradients(std::span<const WeightGradient> jobs, const WeightGradientShape& shape, int threads,
                      Workspace& workspace);

/// One sum over the leaves: out[i] = tree over leaves of (tree over pieces of partial[leaf][piece][i]), i < n.
struct PartialSum {
  float* partials;      // [leaves pieces stride]; overwritten
  std::int64_t stride;  // floats from one partial to the next
  std::int64_t n;       // elements of each
  float* out;           // [n]
};
void tree_sums(std::span<const PartialSum> sums, std::int64_t leaves, std::int64_t pieces, int threads);

}  // namespace vitrail::cpu
