#pragma once
// Single-threaded matrix products of what lies in memory, packed on the way (ops/cpu/product_kernels.hpp), and the
// fixed cuts by which larger ones are spread over threads.

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "ops/cpu/product_kernels.hpp"
#include "ops/ops.hpp"

namespace vitrail::cpu {

/// A row-major operand where it lies, f32 or bf16.
struct Operand : Matrix {
  Operand(const float* values, std::int64_t row_stride, bool is_transposed = false)
      : Matrix{values, Dtype::f32, row_stride, is_transposed} {}
  Operand(const Bf16* values, std::int64_t row_stride, bool is_transposed = false)
      : Matrix{values, Dtype::bf16, row_stride, is_transposed} {}
  /// For scratch(), which does not look at the data.
  Operand(std::nullptr_t, std::int64_t row_stride, bool is_transposed = false)
      : Matrix{nullptr, Dtype::f32, row_stride, is_transposed} {}
};

enum class Into : bool { overwrite, add };

/// A count cut in equal pieces (the last one may be shorter); always at least one piece.
struct Cut {
  std::int64_t count;  ///< of elements
  std::int64_t piece;  ///< elements of a piece
  [[nodiscard]] std::int64_t pieces() const { return std::max<std::int64_t>(1, (count + piece - 1) / piece); }
  [[nodiscard]] std::int64_t begin(std::int64_t i) const { return i * piece; }
  [[nodiscard]] std::int64_t length(std::int64_t i) const { return std::min(piece, count - i * piece); }
};

/// Not cut.
inline Cut whole(std::int64_t count) { return {count, std::max<std::int64_t>(1, count)}; }

/// `count` cut in the smallest number of about equal pieces that have at most about `most` elements, multiples of
/// `unit`.
inline Cut cut_evenly(std::int64_t count, std::int64_t most, std::int64_t unit = 8) {
  const std::int64_t pieces = std::max<std::int64_t>(1, (count + most - 1) / most);
  return {count, std::max(unit, ((count + pieces - 1) / pieces + unit - 1) / unit * unit)};
}

/// The rows of one (leaf, expert) block in panels, units of work of what is not a packed product. By shapes alone.
inline Cut row_panels(std::int64_t rows, std::int64_t weights) {
  return cut_evenly(rows, std::clamp<std::int64_t>(weights / 2048, 128, 512));
}

/// The products of a back end in its precision, in the way of the instruction set that is pinned. In bf16 what is f32
/// is rounded (to nearest, ties to even) as it is packed; sums are f32.
class Gemm {
 public:
  explicit Gemm(Precision precision);
  explicit Gemm(Way way) : way_(way) {}
  [[nodiscard]] Way way() const noexcept { return way_; }

  /// Floats of scratch that a thread needs for these products, of all lengths of the pieces. b is not looked at.
  [[nodiscard]] std::int64_t scratch(const Cut& m, const Cut& n, const Cut& k, const Operand& a, const Operand& b,
                                     Into into) const;

  /// c (m x n, dense) = or += a (m x k) b (k x n), inside for_each_unit. Not both of a and b are transposed. An empty
  /// sum is 0.
  void operator()(std::int64_t m, std::int64_t n, std::int64_t k, const Operand& a, const Operand& b, Into into,
                  float* c, float* scratch) const;
  /// The same, rounded to bf16.
  void operator()(std::int64_t m, std::int64_t n, std::int64_t k, const Operand& a, const Operand& b, Bf16* c,
                  float* scratch) const;

 private:
  Way way_;
};

/// The same in f32, whatever the precision; c's rows are `stride` apart.
void gemm(std::int64_t m, std::int64_t n, std::int64_t k, const Operand& a, const Operand& b, Into into, float* c,
          std::int64_t stride, float* scratch);
std::int64_t gemm_scratch(std::int64_t m, std::int64_t n, std::int64_t k, const Operand& a, const Operand& b);

}  // namespace vitrail::cpu
