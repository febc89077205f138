// Products of matrices that lie in the first two caches, in registers: the attention's, and gradients of small weights.
// Included once per instruction set, see vector_math-inl.hpp.

#if defined(VITRAIL_OPS_CPU_SMALL_GEMM_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef VITRAIL_OPS_CPU_SMALL_GEMM_INL
#undef VITRAIL_OPS_CPU_SMALL_GEMM_INL
#else
#define VITRAIL_OPS_CPU_SMALL_GEMM_INL
#endif

#include <algorithm>

#include "ops/cpu/bf16_pairs-inl.hpp"
#include "ops/cpu/vector_math-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace vitrail::cpu::HWY_NAMESPACE {
namespace {

/// Memory that is needed later: products ask for it, a few rows at a time, so that it comes while they go on.
class Upcoming {
 public:
  /// `rows` rows of `bytes` bytes, `stride` bytes apart.
  void add(const void* first, std::int64_t bytes, std::int64_t stride, std::int64_t rows) {
    parts_[count_++] = {static_cast<const char*>(first), bytes, stride, rows};
  }
  /// Asks for about so many cache lines.
  HWY_INLINE void ask(std::int64_t lines) {
    while (lines > 0 && next_ < count_) {
      Part& part = parts_[next_];
      const std::int64_t bytes = part.bytes, stride = part.stride;
      const std::int64_t rows = std::min(part.rows, lines * kLine / bytes + 1);
      const char* row = part.row;
      for (std::int64_t r = 0; r < rows; ++r, row += stride) {
        // Into the second cache: the first one is full of the product.
        for (std::int64_t at = 0; at < bytes; at += kLine) __builtin_prefetch(row + at, 0, 2);
      }
      lines -= rows * bytes / kLine;
      part.row = row;
      part.rows -= rows;
      if (part.rows == 0) ++next_;
    }
  }

 private:
  static constexpr std::int64_t kLine = 64;
  struct Part {
    const char* row;
    std::int64_t bytes, stride, rows;
  };
  Part parts_[8];
  int count_ = 0, next_ = 0;
};

/// c = a b, or c += a b, for kGroup products at once whose elements lie side by side: element (i, j) of c is kGroup
/// floats, and so are those of a and b. Strides are in floats. a(i, l) begins at a + i * a_row + l * a_column, so a may
/// be a transpose at no cost; b [k n] and c [m n] are row-major and their rows are padded: n, in floats, is a multiple
/// of the number of lanes. With kPairs, a and b hold pairs of bf16 in the place of floats, of two terms each, and k
/// counts pairs.
struct SmallGemm {
  std::int64_t m, n, k;
  const float* a;
  std::int64_t a_row, a_column;
  const float* b;
  std::int64_t b_row;
  float* c;
  std::int64_t c_row;
  bool add;
  Upcoming* upcoming = nullptr;
};

template <bool kPairs>
HWY_INLINE Vector multiply_add(Vector a, Vector b, Vector sum) {
#if VITRAIL_OPS_CPU_MULTIPLIES_PAIRS
  if constexpr (kPairs) return add_products_of_pairs(a, b, sum);
#else
  static_assert(!kPairs, "only with the instructions for it");
#endif
  return hn::MulAdd(a, b, sum);
}

/// kGroup floats from p, again and again.
template <int kGroup>
HWY_INLINE Vector repeat(const float* p) {
  static_assert(kGroup == 1 || kGroup == 4);
  if constexpr (kGroup == 1) {
    return set(*p);
  } else {
    return hn::LoadDup128(Floats(), p);
  }
}

/// Rows of the largest tile of kVectors vectors: the accumulators, a row of b and a number of a fill the registers.
#if HWY_TARGET <= HWY_AVX3 && HWY_ARCH_X86
constexpr int kMostVectors = 4;
constexpr int kMostRows[] = {0, 12, 12, 8, 6};
#else
constexpr int kMostVectors = 3;
constexpr int kMostRows[] = {0, 12, 6, 4};
#endif

constexpr int kPerLine = 20;  // multiply-adds of vectors for every line that is asked for ahead

/// kRows x kVectors accumulators, all in registers.
template <int kGroup, bool kPairs, int kRows, int kVectors>
HWY_INLINE void small_tile(const SmallGemm& g, std::int64_t i, std::int64_t j) {
  const Floats d;
  const std::int64_t step = lanes();
  constexpr int kThirds = (kRows + 2) / 3;
  const float* a[kThirds];  // every third row: the others are addressed from these
#pragma GCC unroll 8
  for (int r = 0; r < kThirds; ++r) a[r] = g.a + (i + std::int64_t{3} * r) * g.a_row;
  const std::int64_t a_row = g.a_row;
  const float* HWY_RESTRICT b = g.b + j;
  Vector sums[kRows][kVectors];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) sums[r][v] = zero();
  }
  for (std::int64_t l = 0; l < g.k; ++l) {
    Vector from_b[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) from_b[v] = hn::LoadU(d, b + v * step);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const Vector from_a = repeat<kGroup>(a[r / 3] + r % 3 * a_row);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) sums[r][v] = multiply_add<kPairs>(from_a, from_b[v], sums[r][v]);
    }
    b += g.b_row;
#pragma GCC unroll 8
    for (int r = 0; r < kThirds; ++r) a[r] += g.a_column;
  }
  if (g.upcoming != nullptr) g.upcoming->ask(std::int64_t{kRows} * kVectors * g.k / kPerLine);
  float* HWY_RESTRICT c = g.c + i * g.c_row + j;
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r, c += g.c_row) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      const Vector old = g.add ? hn::LoadU(d, c + v * step) : zero();
      hn::StoreU(hn::Add(old, sums[r][v]), d, c + v * step);
    }
  }
}

/// kVectors columns of vectors, all rows.
template <int kGroup, bool kPairs, int kVectors>
HWY_NOINLINE void small_strip(const SmallGemm& g, std::int64_t j) {
  constexpr int kMost = kMostRows[kVectors];
  std::int64_t i = 0;
  for (; i + kMost <= g.m; i += kMost) small_tile<kGroup, kPairs, kMost, kVectors>(g, i, j);
  if constexpr (kMost / 2 > 2) {
    if (i + kMost / 2 <= g.m) {
      small_tile<kGroup, kPairs, kMost / 2, kVectors>(g, i, j);
      i += kMost / 2;
    }
  }
  for (; i + 2 <= g.m; i += 2) small_tile<kGroup, kPairs, 2, kVectors>(g, i, j);
  if (i < g.m) small_tile<kGroup, kPairs, 1, kVectors>(g, i, j);
}

// Every element of c is one chain of multiply-adds over l, whatever the tile: the tiling is for speed alone.
template <int kGroup, bool kPairs = false>
void small_gemm(const SmallGemm& g) {
  const std::int64_t vectors = g.n / lanes();
  const std::int64_t strips = (vectors + kMostVectors - 1) / kMostVectors;  // about equally wide
  for (std::int64_t s = 0, j = 0; s < strips; ++s) {
    const std::int64_t width = vectors / strips + (s < vectors % strips ? 1 : 0);
    if (width == 1) small_strip<kGroup, kPairs, 1>(g, j);
    if (width == 2) small_strip<kGroup, kPairs, 2>(g, j);
    if (width == 3) small_strip<kGroup, kPairs, 3>(g, j);
#if HWY_TARGET <= HWY_AVX3 && HWY_ARCH_X86
    if (width == 4) small_strip<kGroup, kPairs, 4>(g, j);
#endif
    j += width * lanes();
  }
}

}  // namespace
}  // namespace vitrail::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
