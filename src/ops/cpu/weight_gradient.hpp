#pragma once
// dw = x^T dy and db = column sums of dy, summed over the leaves by their binary tree.

#include <cstdint>
#include <span>

#include "ops/cpu/gemm.hpp"
#include "ops/cpu/parallel.hpp"
#include "ops/cpu/training_kernels.hpp"
#include "ops/cpu/workspace.hpp"

namespace vitrail::cpu {

struct WeightGradient {
  Matrix x;   // [leaves E rows in], dense, or in strips; or [leaves E in rows] with `transposed`, f32 and wide weights
  Matrix dy;  // [leaves E rows out], dense, or in strips
  float* dw;  // [E in out]
  float* db;  // [E out], or nullptr
  // Instead of dw, for weights of more than kSmallWeights elements: parameter, m and v [E in out] are given, the
  // gradient and what is said of rows are not.
  const AdamWRun* update = nullptr;
};
struct WeightGradientShape {
  Way way;
  std::int64_t leaves, experts, rows, in, out;
};

/// Several gradients of one shape at once, so that all threads have work.
void weight_gradients(std::span<const WeightGradient> jobs, const WeightGradientShape& shape, int threads,
                      Workspace& workspace);

/// Weights of at most this many elements are summed in whole partials, one per (leaf, piece of rows); larger ones in
/// tiles.
inline constexpr std::int64_t kSmallWeights = 1 << 16;

/// The rows of a block in pieces, for sums over rows: one (empty) piece when there are none.
Cut pieces_of_rows(std::int64_t rows);

/// One sum over the leaves: out[i] = tree over leaves of (tree over pieces of partial[leaf][piece][i]), i < n.
struct PartialSum {
  float* partials;      // [leaves pieces stride]; overwritten
  std::int64_t stride;  // floats from one partial to the next
  std::int64_t n;       // elements of each; 0: nothing to do
  float* out;           // [n]
};
inline constexpr std::int64_t kPieceOfSum = 4096;  // elements
/// Elements begin .. begin+kPieceOfSum-1 of one sum.
void add_up(const PartialSum& sum, std::int64_t begin, std::int64_t leaves, std::int64_t pieces);

/// `count` sums of at most `longest` elements; sum_of(i) tells number i.
template <class SumOf>
void tree_sums(std::int64_t count, std::int64_t longest, std::int64_t leaves, std::int64_t pieces, int threads,
               const SumOf& sum_of) {
  const std::int64_t cuts = (longest + kPieceOfSum - 1) / kPieceOfSum;
  for_each_unit(threads, count * cuts, [&](std::int64_t unit, int) {
    add_up(sum_of(unit / cuts), unit % cuts * kPieceOfSum, leaves, pieces);
  });
}

}  // namespace vitrail::cpu
