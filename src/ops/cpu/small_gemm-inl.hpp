// Products of matrices that lie in the first two caches, in registers: the attention's. Included once per instruction
// set, see vector_math-inl.hpp.

#if defined(VITRAIL_OPS_CPU_SMALL_GEMM_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef VITRAIL_OPS_CPU_SMALL_GEMM_INL
#undef VITRAIL_OPS_CPU_SMALL_GEMM_INL
#else
#define VITRAIL_OPS_CPU_SMALL_GEMM_INL
#endif

#include "ops/cpu/vector_math-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace vitrail::cpu::HWY_NAMESPACE {
namespace {

/// c = a b, or c += a b. a(i, l) = a[i * a_row + l * a_column], so a may be a transpose at no cost; b [k n] and c [m n]
/// are row-major and their rows are padded: n is a multiple of the number of lanes.
struct SmallGemm {
  std::int64_t m, n, k;
  const float* a;
  std::int64_t a_row, a_column;
  const float* b;
  std::int64_t b_row;
  float* c;
  std::int64_t c_row;
  bool add;
};

/// kRows x kVectors accumulators, all in registers.
template <int kRows, int kVectors>
HWY_INLINE void tile(const SmallGemm& g, std::int64_t i, std::int64_t j) {
  const Floats d;
  const std::int64_t step = lanes();
  const float* HWY_RESTRICT a = g.a + i * g.a_row;
  const float* HWY_RESTRICT b = g.b + j;
  float* HWY_RESTRICT c = g.c + i * g.c_row + j;
  Vector sums[kRows][kVectors];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) sums[r][v] = g.add ? hn::LoadU(d, c + r * g.c_row + v * step) : zero();
  }
  for (std::int64_t l = 0; l < g.k; ++l) {
    Vector from_b[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) from_b[v] = hn::LoadU(d, b + l * g.b_row + v * step);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const Vector from_a = set(a[r * g.a_row + l * g.a_column]);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) sums[r][v] = hn::MulAdd(from_a, from_b[v], sums[r][v]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) hn::StoreU(sums[r][v], d, c + r * g.c_row + v * step);
  }
}

/// kVectors columns of vectors, all rows.
template <int kRows, int kVectors>
HWY_INLINE void strip(const SmallGemm& g, std::int64_t j) {
  std::int64_t i = 0;
  for (; i + kRows <= g.m; i += kRows) tile<kRows, kVectors>(g, i, j);
  if constexpr (kRows > 4) {
    if (i + 4 <= g.m) {
      tile<4, kVectors>(g, i, j);
      i += 4;
    }
  }
  if (i + 2 <= g.m) {
    tile<2, kVectors>(g, i, j);
    i += 2;
  }
  if (i < g.m) tile<1, kVectors>(g, i, j);
}

// Every element of c is one chain of multiply-adds over l, whatever the tile: the tiling is for speed alone.
HWY_NOINLINE void small_gemm(const SmallGemm& g) {
  const std::int64_t step = lanes();
  std::int64_t j = 0;
  const std::int64_t vectors = g.n / step;
  const std::int64_t triples = vectors % 2 == 1 && vectors > 1 ? 1 : 0;
  for (std::int64_t t = 0; t < triples; ++t, j += 3 * step) strip<4, 3>(g, j);
  for (; j + 2 * step <= g.n; j += 2 * step) strip<6, 2>(g, j);
  for (; j < g.n; j += step) strip<8, 1>(g, j);
}

}  // namespace
}  // namespace vitrail::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
