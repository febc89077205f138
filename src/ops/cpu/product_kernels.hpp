#pragma once
// Matrix products on one thread, with packed operands. What a unit of work does; how a product is cut into units stands
// in products.hpp. The order of every sum depends on k alone: it is cut in blocks of a fixed length, each block is
// summed by fused multiply-adds in its order, on top of the blocks before. So no bit depends on how rows and columns
// are cut.

#include <cstdint>

#include "device/tensor.hpp"
#include "ops/cpu/bf16_blocks.hpp"

namespace vitrail::cpu {

/// How the inputs of a product are multiplied. Sums are f32 always.
enum class Way : std::uint8_t {
  f32,
  f32_of_rounded,  ///< the inputs are rounded to bf16 and multiplied in f32: for machines that do not multiply bf16
  bf16_pairs,      ///< by the instructions of AVX512_BF16
  bf16_tiles,      ///< by those of AMX
};

/// Where element (row, column) stands. Of rows that are `stride` elements wide,
/// strip_rows to a block; or not in strips (0).
constexpr std::int64_t offset_of(std::int64_t row, std::int64_t column, std::int64_t stride, std::int64_t strip_rows) {
  if (strip_rows == 0) return row * stride + column;
  return row / strip_rows * strip_rows * stride + column / kStrip * kStrip * strip_rows + row % strip_rows * kStrip +
         column % kStrip;
}
/// From one row to the next, within a strip if there are any.
constexpr std::int64_t row_step_of(std::int64_t stride, std::int64_t strip_rows) {
  return strip_rows == 0 ? stride : kStrip;
}

/// A row-major matrix operand, f32 or bf16: `stride` elements from one stored row to the next; `transposed` if the
/// product uses its transpose. In strips, if strip_rows is not 0: then `stride` is its width, a multiple of kStrip, and
/// it is not transposed.
struct Matrix {
  const void* data = nullptr;
  Dtype dtype = Dtype::f32;
  std::int64_t stride = 0;
  bool transposed = false;
  std::int64_t strip_rows = 0;

  /// From an element of what is stored on; in strips, `column` begins one.
  [[nodiscard]] Matrix at(std::int64_t row, std::int64_t column) const {
    Matrix there = *this;
    there.data = static_cast<const char*>(data) + offset_of(row, column, stride, strip_rows) * size_of(dtype);
    return there;
  }
  /// From one stored row to the next, and from one strip to the next (strips of a matrix that is in none touch).
  [[nodiscard]] std::int64_t row_step() const { return row_step_of(stride, strip_rows); }
  [[nodiscard]] std::int64_t strip_step() const { return strip_rows == 0 ? kStrip : kStrip * strip_rows; }
};

/// A dense tensor whose rows have `columns` elements, and its transpose.
inline Matrix matrix(const ConstTensor& tensor, std::int64_t columns) { return {tensor.data, tensor.dtype, columns}; }
inline Matrix transposed(const ConstTensor& tensor, std::int64_t columns) {
  return {tensor.data, tensor.dtype, columns, true};
}

/// Rows of a tile in registers: blocks of rows should be multiples of it.
constexpr std::int64_t tile_rows(Way way) { return way == Way::bf16_tiles ? 16 : 6; }

/// Columns of a panel: b is packed, and c computed, in panels of so many; the last may be narrower.
std::int64_t panel_columns(Way way);
/// Bytes of one packed panel of a b with k rows.
std::int64_t panel_bytes(Way way, std::int64_t k);
/// Floats of all panels of a b with n columns, in whole cache lines.
std::int64_t packed_floats(Way way, std::int64_t n, std::int64_t k);
/// Packs the panels of columns first .. first+columns-1 of b (k rows), one after the other; `first` begins a panel, and
/// a strip if b is in strips.
void pack_panels(Way way, std::int64_t k, const Matrix& b, std::int64_t first, std::int64_t columns, void* to);

/// What a way multiplies: f32 or bf16.
constexpr Dtype multiplied_dtype(Way way) {
  return way == Way::bf16_pairs || way == Way::bf16_tiles ? Dtype::bf16 : Dtype::f32;
}
/// How operands are multiplied that have been rounded before.
constexpr Way after_rounding(Way way) { return way == Way::f32_of_rounded ? Way::f32 : way; }
/// Terms of a row of which k are given: bf16 goes on with zeros to those of a whole tile.
constexpr std::int64_t padded_terms(Way way, std::int64_t k) {
  return multiplied_dtype(way) == Dtype::bf16 ? (k + 31) / 32 * 32 : k;
}

/// to[i * stride + l] = b[l][i] as the way multiplies it, and 0 for k <= l < padded_terms; k rows and m columns of b,
/// which is not transposed.
void transpose_operand(Way way, const Matrix& b, std::int64_t k, std::int64_t m, void* to, std::int64_t stride);
/// sums[j] = or += b[0][j] + b[1][j] + ..., unrounded, one after the other: k rows and n columns of b, which is not
/// transposed.
void sum_columns(const Matrix& b, std::int64_t k, std::int64_t n, float* sums, bool add);

/// What happens to a sum before it is written.
enum class Finish : std::uint8_t {
  store,          ///< y = sum + bias + residual
  add,            ///< y += sum; y is f32
  gelu,           ///< u = sum + bias; y = gelu(u) * mask
  gelu_backward,  ///< h = gelu(u) * mask; y = sum * mask * gelu'(u)
};
/// Tensors that are read or written beside a product, at its first row and column 0. bias, residual and mask are f32,
/// and may be left out (nullptr), then they count as 0, 0 and 1; u, h and y are `dtype`. Rows are `stride` elements
/// apart but in y and h, which have strides of their own. u, h and y are all in strips if strip_rows is not 0, but not
/// an h that is transposed.
struct Epilogue {
  Finish finish = Finish::store;
  Dtype dtype = Dtype::f32;
  std::int64_t stride = 0;
  const float* bias = nullptr;
  const float* residual = nullptr;
  const float* mask = nullptr;
  void* u = nullptr;
  void* h = nullptr;
  std::int64_t h_stride = 0;
  bool h_transposed = false;  ///< with strips in f32: of every strip_rows rows, [columns strip_rows], h_stride apart
  void* y = nullptr;
  std::int64_t y_stride = 0;
  std::int64_t strip_rows = 0;
  bool stream = false;   ///< with `store` in f32: y is too large to be found in a cache later
  bool is_near = false;  ///< y is in a cache: it is not fetched before it is written

  /// From row `row` on.
  [[nodiscard]] Epilogue at(std::int64_t row) const;
};

/// y = or += the sums, f32, its rows `stride` floats apart.
inline Epilogue into_floats(float* y, std::int64_t stride, bool add = false) {
  Epilogue e;
  e.finish = add ? Finish::add : Finish::store;
  e.y = y;
  e.y_stride = stride;
  return e;
}

/// Columns first_column .. of c = a b, or of a sum of such products, for a block of rows of a and packed panels of b.
struct PanelProduct {
  Way way;
  std::int64_t rows, k;
  Matrix a;            // [rows k], not transposed
  const void* panels;  // of b, from pack_panels
  std::int64_t first_column, columns;
  Epilogue epilogue;
  float* sums;             // panel_sums; between the first and the last product of a sum they are kept here
  float* scratch;          // panel_scratch
  bool first = true;       // of a sum
  bool last = true;        // of a sum: the epilogue is made
  Ahead* later = nullptr;  // what the caller will read
};
void multiply(const PanelProduct& product);
/// How many pieces of `later` a product of this size fetches at most: some go to what its epilogue reads and writes.
std::int64_t fetches_of(Way way, std::int64_t rows, std::int64_t k, std::int64_t columns);
/// Longer k should be cut in pieces of this length, products of a sum, so that what is packed stays in the second
/// cache.
std::int64_t most_terms(Way way);
/// The most rows that one PanelProduct should have, so that they stay there too.
std::int64_t most_rows(Way way, std::int64_t k);
/// Floats of sums and of scratch for products of at most so many rows.
std::int64_t panel_sums(Way way, std::int64_t rows, std::int64_t columns);
std::int64_t panel_scratch(Way way, std::int64_t rows, std::int64_t k);

/// y (m x n) = or += x^T dy over k rows, for few m and n.
struct ColumnProduct {
  Way way;
  std::int64_t m, n, k;
  Matrix x;        // [k m]; counts as not transposed
  Matrix dy;       // [k n], not transposed
  Epilogue y;      // store without bias and residual, or add
  float* sums;     // [n]: = or += dy's rows, unrounded, one after the other; or nullptr
  float* scratch;  // column_product_scratch
};
void multiply(const ColumnProduct& product);
std::int64_t column_product_scratch(Way way, std::int64_t m, std::int64_t n, std::int64_t k);

}  // namespace vitrail::cpu
