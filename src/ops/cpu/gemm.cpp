#include "ops/cpu/gemm.hpp"

#include "ops/cpu/cpu_isa.hpp"
#include "ops/cpu/workspace.hpp"

namespace vitrail::cpu {

namespace {

Way way_of(Precision precision) {
  if (precision == Precision::f32) return Way::f32;
  if (has_tile_instructions()) return Way::bf16_tiles;
  return has_bf16_instructions() ? Way::bf16_pairs : Way::f32_of_rounded;
}

/// y: where the result goes, with its dtype and stride, and whether it is added.
void multiply_in(Way way, std::int64_t m, std::int64_t n, std::int64_t k, const Matrix& a, const Matrix& b,
                 const Epilogue& y, float* scratch) {
  if (m == 0 || n == 0) return;
  if (a.transposed) return multiply(ColumnProduct{way, m, n, k, a, b, y, nullptr, scratch});
  pack_panels(way, k, b, 0, n, scratch);
  const std::int64_t most = most_rows(way, k);
  float* const sums = scratch + packed_floats(way, n, k);
  for (std::int64_t i = 0; i < m; i += most) {
    const std::int64_t rows = std::min(most, m - i);
    multiply(PanelProduct{way, rows, k, a.at(i, 0), scratch, 0, n, y.at(i), sums, sums + panel_sums(way, rows, n)});
  }
}
std::int64_t scratch_in(Way way, std::int64_t m, std::int64_t n, std::int64_t k, bool of_columns) {
  if (of_columns) return aligned_floats(column_product_scratch(way, m, n, k));
  const std::int64_t rows = std::min(m, most_rows(way, k));
  return packed_floats(way, n, k) + panel_sums(way, rows, n) + panel_scratch(way, rows, k);
}

}  // namespace

Gemm::Gemm(Precision precision) : way_(way_of(precision)) {}

std::int64_t Gemm::scratch(const Cut& m, const Cut& n, const Cut& k, const Operand& a, const Operand&, Into) const {
  return scratch_in(way_, m.length(0), n.length(0), k.length(0), a.transposed);
}

void Gemm::operator()(std::int64_t m, std::int64_t n, std::int64_t k, const Operand& a, const Operand& b, Into into,
                      float* c, float* scratch) const {
  multiply_in(way_, m, n, k, a, b, into_floats(c, n, into == Into::add), scratch);
}
void Gemm::operator()(std::int64_t m, std::int64_t n, std::int64_t k, const Operand& a, const Operand& b, Bf16* c,
                      float* scratch) const {
  Epilogue y;
  y.dtype = Dtype::bf16;
  y.y = c;
  y.y_stride = n;
  multiply_in(way_, m, n, k, a, b, y, scratch);
}

void gemm(std::int64_t m, std::int64_t n, std::int64_t k, const Operand& a, const Operand& b, Into into, float* c,
          std::int64_t stride, float* scratch) {
  multiply_in(Way::f32, m, n, k, a, b, into_floats(c, stride, into == Into::add), scratch);
}
std::int64_t gemm_scratch(std::int64_t m, std::int64_t n, std::int64_t k, const Operand& a, const Operand&) {
  return scratch_in(Way::f32, m, n, k, a.transposed);
}

}  // namespace vitrail::cpu
