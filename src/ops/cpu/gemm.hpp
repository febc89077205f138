#pragma once
// Single-threaded matrix products (oneDNN), in f32 or of operands rounded to bf16, and the fixed cuts by which larger
// ones are spread over threads.

#include <algorithm>
#include <cstdint>
#include <map>

#include "ops/cpu/bf16_product.hpp"
#include "ops/ops.hpp"

namespace vitrail::cpu {

/// A row-major matrix operand: `stride` elements from one stored row to the next; `transposed` if the product uses its
/// transpose.
struct Operand {
  const float* data;
  std::int64_t stride;
  bool transposed = false;
};

enum class Into : bool { overwrite, add };

/// c (m x n, row stride `stride`) = or += a (m x k) b (k x n), f32. Call it inside for_each_unit: there it uses one
/// thread. An empty sum (k = 0) is 0. `scratch`: gemm_scratch floats of the calling thread; with nullptr nothing is
/// copied.
void gemm(std::int64_t m, std::int64_t n, std::int64_t k, Operand a, Operand b, Into into, float* c,
          std::int64_t stride, float* scratch = nullptr);

/// Floats of scratch that this product needs (the data of the operands does not matter). oneDNN reads operands where
/// they are, and where rows lie a multiple of 512 bytes apart they fight for the same few lines of the first cache:
/// down to half the speed. Such operands are copied to rows that do not.
std::int64_t gemm_scratch(std::int64_t m, std::int64_t n, std::int64_t k, Operand a, Operand b);

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

/// `count` cut in the smallest number of about equal pieces that have at most `most` elements, multiples of 8.
inline Cut cut_evenly(std::int64_t count, std::int64_t most) {
  const std::int64_t pieces = std::max<std::int64_t>(1, (count + most - 1) / most);
  return {count, std::max<std::int64_t>(8, ((count + pieces - 1) / pieces + 7) / 8 * 8)};
}

/// The rows of one (leaf, expert) block cut in panels, the unit of work of every product with a weight matrix of
/// `weights` elements: a panel must be tall enough to pay for packing the weights, and low enough that it stays in
/// cache and there is work for all threads. Depends on the shapes alone.
inline Cut row_panels(std::int64_t rows, std::int64_t weights) {
  return cut_evenly(rows, std::clamp<std::int64_t>(weights / 2048, 128, 512));
}

/// The products of a back end in its precision. In bf16 both operands are rounded (to nearest, ties to even) into the
/// calling thread's scratch, dense and otherwise as they lie; sums are f32. oneDNN's own bf16 product is taken where
/// the machine multiplies bf16 (three times slower than f32 where it would be emulated), elsewhere its f32 product of
/// the rounded numbers.
class Gemm {
 public:
  explicit Gemm(Precision precision, bool machine_has_bf16 = multiplies_bf16());

  /// Floats of scratch that a thread needs for these products: all lengths of the pieces of m, n and k, c dense. Makes
  /// what they need, so call it before for_each_unit; Error for a product of bf16 that is new after seal().
  std::int64_t scratch(const Cut& m, const Cut& n, const Cut& k, Operand a, Operand b, Into into);

  /// c (m x n, dense) = or += a (m x k) b (k x n), inside for_each_unit, after scratch() was asked. An empty sum is 0.
  void operator()(std::int64_t m, std::int64_t n, std::int64_t k, Operand a, Operand b, Into into, float* c,
                  float* scratch) const;

  void seal() noexcept { sealed_ = true; }

 private:
  enum class Way : std::uint8_t { f32, bf16, f32_of_rounded };
  const Bf16Product& product(const Bf16Shape& shape);

  Way way_;
  std::map<Bf16Shape, Bf16Product> products_;
  bool sealed_ = false;
};

}  // namespace vitrail::cpu
