#pragma once
// Products of many rows with weights, spread over threads: every forward product, and every gradient of an input.

#include <array>
#include <cstdint>
#include <span>

#include "ops/cpu/product_kernels.hpp"
#include "ops/cpu/workspace.hpp"

namespace vitrail::cpu {

/// y = finish(sum over the parts of a w + ...) for blocks of rows with weights of their own: rows are
/// [leaves experts rows], and expert e multiplies with w[e].
struct RowProducts {
  Way way;
  std::int64_t leaves, experts, rows, k, n;
  std::int64_t parts = 1;
  std::array<Matrix, 3> a{};  // [leaves experts rows k], dense, or in strips
  std::array<Matrix, 3> w{};  // [experts k n], or transposed [experts n k], dense
  Epilogue epilogue{};        // of row 0 of all; bias [experts n]
};

/// Several of one way and shape at once, so that all threads have work. Which thread makes which columns of which rows
/// does not show in the bits, so they are cut as suits their number.
void multiply(std::span<const RowProducts> products, int threads, Workspace& workspace);

}  // namespace vitrail::cpu
