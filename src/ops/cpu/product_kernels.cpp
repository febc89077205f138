#include "ops/cpu/product_kernels.hpp"

#include <algorithm>
#include <array>

#include "base/error.hpp"
#include "ops/cpu/bf16_blocks.hpp"
#include "ops/cpu/dense_kernels.hpp"
#include "ops/cpu/workspace.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/cpu/product_kernels.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "ops/cpu/bf16_pairs-inl.hpp"
#include "ops/cpu/small_gemm-inl.hpp"
#include "ops/cpu/transpose-inl.hpp"
#include "ops/cpu/vector_math-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace vitrail::cpu::HWY_NAMESPACE {
namespace {

// Registers hold 6 x kPanelVectors sums, one row of the panel and one element of a. AVX2 has 16 of them, the others 32.
constexpr int kTileRows = 6;
constexpr int kPanelVectors = HWY_ARCH_X86 && kMostLanes < 16 ? 2 : 4;

// Lengths of a block of k. Longer than what keeps the block of a panel in the first cache: the sums, that are read and
// written once a block, count more.
constexpr std::int64_t kBlockOfFloats = 768;
constexpr std::int64_t kBlockOfBf16 = 512;
constexpr std::int64_t kBf16Columns = 64;
constexpr std::int64_t kBf16Terms = padded_terms(Way::bf16_tiles, 1);

constexpr std::int64_t round_up(std::int64_t n, std::int64_t to) { return (n + to - 1) / to * to; }

bool is_bf16(Way way) { return multiplied_dtype(way) == Dtype::bf16; }

std::int64_t PanelColumns(Way way) { return is_bf16(way) ? kBf16Columns : kPanelVectors * lanes(); }
std::int64_t PanelBytes(Way way, std::int64_t k) {
  return padded_terms(way, k) * PanelColumns(way) * size_of(multiplied_dtype(way));
}
std::int64_t PackedFloats(Way way, std::int64_t n, std::int64_t k) {
  const std::int64_t panel = PanelColumns(way);
  return aligned_floats((n + panel - 1) / panel * PanelBytes(way, k) / 4);
}
/// Columns of a panel that are computed.
std::int64_t width_of(Way way, std::int64_t columns) { return round_up(columns, is_bf16(way) ? 16 : lanes()); }

/// Calls body with the operand's elements, float or Bf16.
template <class Body>
void typed(const Matrix& matrix, const Body& body) {
  if (matrix.dtype == Dtype::bf16) {
    body(static_cast<const Bf16*>(matrix.data));
  } else {
    body(static_cast<const float*>(matrix.data));
  }
}
/// Calls body(data, column, columns) for runs of columns whose rows are row_step() apart: all of them, or strips.
template <class Body>
void for_strips(const Matrix& matrix, std::int64_t columns, const Body& body) {
  const std::int64_t run = matrix.strip_rows == 0 ? columns : kStrip;
  for (std::int64_t j = 0; j < columns; j += run) {
    typed(matrix.at(0, j), [&](const auto* data) { body(data, j, std::min(run, columns - j)); });
  }
}

// --- packing ---------------------------------------------------------------------------------------------------------

Vector rounded_if(bool round, Vector x) { return round ? rounded(x) : x; }

/// to [n_padded / 2] = pairs of the n elements of `from`, zeros after them.
template <class T>
void pair_up(const T* from, std::int64_t n, std::uint32_t* to, std::int64_t n_padded) {
  auto* const halves = reinterpret_cast<Bf16*>(to);
  if constexpr (std::is_same_v<T, Bf16>) {
    std::copy_n(from, n, halves);
  } else {
    round_row(from, n, halves);
  }
  std::fill(halves + n, halves + n_padded, Bf16{0});
}

constexpr std::int64_t kRowsAhead = 8;
constexpr std::int64_t kTermsTurned = 64;
constexpr std::int64_t kRowsTurned = 16;  // transposed at a time, while the next ones are fetched
template <class T>
HWY_INLINE void fetch(const T* row, std::int64_t n) {
  for (std::int64_t i = 0; i < n; i += 64 / static_cast<std::int64_t>(sizeof(T))) __builtin_prefetch(row + i);
}

/// Panels of k rows of b, one after the other. What is read lies in rows, so all panels are written at once.
template <class T>
void pack_floats(Way way, const T* b, std::int64_t stride, bool transposed, std::int64_t k, std::int64_t columns,
                 float* to) {
  const bool round = way == Way::f32_of_rounded;
  const std::int64_t width = PanelColumns(way);
  if (!transposed) {
    for (std::int64_t l = 0; l < k; ++l) {
      const T* const row = b + l * stride;
      if (l + kRowsAhead < k) fetch(row + kRowsAhead * stride, columns);
      for (std::int64_t j = 0; j < columns; j += width) {
        float* const y = to + j * k + l * width;
        for_vectors(std::min(width, columns - j), [&](std::int64_t i, std::int64_t count) {
          store(rounded_if(round, load(row + j + i, count)), y + i);
        });
      }
    }
    return;
  }
  for (std::int64_t j = 0; j < columns; j += width) {
    const std::int64_t here = std::min(width, columns - j);
    float* const panel = to + j * k;
    const std::int64_t padded = width_of(way, here);
    for (std::int64_t i = 0; i < padded; i += kRowsTurned) {
      const T* const rows = b + (j + i) * stride;
      const std::int64_t next = std::min(kRowsTurned, columns - j - i - kRowsTurned);
      for (std::int64_t l = 0; l < k; l += kTermsTurned) {
        const std::int64_t terms = std::min(kTermsTurned, k - l);
        for (std::int64_t r = 0; r < next; ++r) fetch(rows + (kRowsTurned + r) * stride + l, terms);
        transpose(rows + l, stride, std::clamp<std::int64_t>(here - i, 0, kRowsTurned), terms, panel + l * width + i,
                  width, std::min(kRowsTurned, padded - i));
      }
    }
    for (std::int64_t i = 0; round && i < k * width; i += lanes()) store(rounded(load(panel + i)), panel + i);
  }
}
template <class T>
void pack_pairs(const T* b, std::int64_t stride, bool transposed, std::int64_t k, std::int64_t columns,
                std::uint32_t* to) {
  const std::int64_t padded = round_up(k, kBf16Terms);
  if (!transposed) {
    for (std::int64_t l = 0; l < padded; l += 2) {
      const T* const even = b + l * stride;
      for (std::int64_t r = kRowsAhead; r < kRowsAhead + 2 && l + r < k; ++r) fetch(even + r * stride, columns);
      for (std::int64_t j = 0; j < columns; j += kBf16Columns) {
        std::uint32_t* const row = to + j / 2 * padded + l / 2 * kBf16Columns;
        if (l >= k) {
          std::fill_n(row, kBf16Columns, 0U);
          continue;
        }
        pair_rows(even + j, l + 1 < k ? even + stride + j : nullptr, std::min(kBf16Columns, columns - j), row);
      }
    }
    return;
  }
  // Sixteen columns and 32 rows at a time: pairs lie in the rows of what is stored, so they are made there.
  HWY_ALIGN std::uint32_t block[16 * 16];
  for (std::int64_t j = 0; j < columns; j += 16) {
    const std::int64_t here = std::min<std::int64_t>(16, columns - j);
    std::uint32_t* const panel = to + j / kBf16Columns * kBf16Columns / 2 * padded + j % kBf16Columns;
    if (here < 16) std::fill_n(block, 16 * 16, 0U);
    for (std::int64_t l = 0; l < padded; l += 32) {
      const std::int64_t terms = std::min<std::int64_t>(32, k - l);
      for (std::int64_t i = 0; i < here; ++i) {
        const T* const row = b + (j + i) * stride + l;
        if (j + kRowsTurned + i < columns) fetch(row + kRowsTurned * stride, 32);
        pair_up(row, terms, block + 16 * i, 32);
      }
      transpose(reinterpret_cast<const float*>(block), 16, 16, 16,
                reinterpret_cast<float*>(panel + l / 2 * kBf16Columns), kBf16Columns, 16);
    }
  }
}

void PackPanels(Way way, std::int64_t k, const Matrix& b, std::int64_t first, std::int64_t columns, void* to) {
  const std::int64_t panel = PanelColumns(way);
  static_assert(kStrip % kBf16Columns == 0 && kStrip % (kPanelVectors * kMostLanes) == 0, "a strip is whole panels");
  for_strips(b.at(b.transposed ? first : 0, b.transposed ? 0 : first), columns,
             [&](const auto* data, std::int64_t j, std::int64_t n) {
               char* const here = static_cast<char*>(to) + j / panel * PanelBytes(way, k);
               if (is_bf16(way)) {
                 pack_pairs(data, b.row_step(), b.transposed, k, n, reinterpret_cast<std::uint32_t*>(here));
               } else {
                 pack_floats(way, data, b.row_step(), b.transposed, k, n, reinterpret_cast<float*>(here));
               }
             });
}

/// to [m stride] = the transpose of the k rows of x as pairs.
template <class T>
void pair_columns(const T* x, std::int64_t x_stride, std::int64_t k, std::int64_t m, std::uint32_t* to,
                  std::int64_t stride) {
  HWY_ALIGN std::uint32_t block[16 * 16];
  for (std::int64_t l = 0; l < k; l += 32) {
    const std::int64_t rows = std::min<std::int64_t>(32, k - l);
    if (rows < 32) std::fill_n(block, 16 * 16, 0U);
    for (std::int64_t r = 32; r < 64 && l + r < k; ++r) fetch(x + (l + r) * x_stride, m);
    for (std::int64_t i = 0; i < m; i += 16) {
      const std::int64_t columns = std::min<std::int64_t>(16, m - i);
      for (std::int64_t r = 0; r < rows; r += 2) {
        const T* const even = x + (l + r) * x_stride + i;
        const T* const odd = r + 1 < rows ? even + x_stride : nullptr;
        pair_rows(even, odd, columns, block + 8 * r);
      }
      transpose(reinterpret_cast<const float*>(block), 16, 16, columns,
                reinterpret_cast<float*>(to + i * stride + l / 2), stride, 16);
    }
  }
}

template <class T>
void transpose_floats(Way way, const T* x, std::int64_t x_stride, std::int64_t k, std::int64_t m, float* to,
                      std::int64_t stride) {
  transpose(x, x_stride, k, m, to, stride, k);
  for (std::int64_t i = 0; way == Way::f32_of_rounded && i < m; ++i) {
    float* const row = to + i * stride;
    for_vectors(k, [&](std::int64_t l, std::int64_t count) { store(rounded(load(row + l, count)), row + l, count); });
  }
}
void TransposeOperand(Way way, const Matrix& b, std::int64_t k, std::int64_t m, void* to, std::int64_t stride) {
  for_strips(b, m, [&](const auto* data, std::int64_t i, std::int64_t n) {
    if (is_bf16(way)) {
      pair_columns(data, b.row_step(), k, n, static_cast<std::uint32_t*>(to) + i * (stride / 2), stride / 2);
    } else {
      transpose_floats(way, data, b.row_step(), k, n, static_cast<float*>(to) + i * stride, stride);
    }
  });
}

void SumColumns(const Matrix& b, std::int64_t k, std::int64_t n, float* sums, bool add) {
  for_strips(b, n, [&](const auto* data, std::int64_t j, std::int64_t columns) {
    (add ? add_column_sums : column_sums)(data, b.row_step(), k, columns, sums + j);
  });
}

// --- f32 blocks ------------------------------------------------------------------------------------------------------

static_assert(kStrip == 2 * kTermsOfFetch);

/// As Bf16Block, in f32.
struct FloatBlock {
  std::int64_t rows;
  std::int64_t k;
  const float* a;
  std::int64_t a_stride, a_strip;
  const float* b;
  std::int64_t b_stride;
  float* c;
  std::int64_t c_stride;
  bool add;
  const Epilogue* stored = nullptr;  // Finish::store of f32 at the first column: c goes there, and is not written
};

/// Finishes and writes a tile of sums, from row i on.
template <int kRows, int kVectors>
HWY_INLINE void store_tile(const Epilogue& e, std::int64_t i, const Vector (&sums)[kRows][kVectors]) {
  const std::int64_t step = lanes();
  float* y = static_cast<float*>(e.y) + i * e.y_stride;
  const float* residual = e.residual != nullptr ? e.residual + i * e.stride : nullptr;
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      Vector x = sums[r][v];
      if (e.bias != nullptr) x = hn::Add(x, load(e.bias + v * step));
      if (residual != nullptr) x = hn::Add(x, load(residual + v * step));
      e.stream ? hn::Stream(x, Floats(), y + v * step) : store(x, y + v * step);
    }
    y += e.y_stride;
    if (residual != nullptr) residual += e.stride;
  }
}

template <int kRows, int kVectors>
HWY_INLINE void tile(const FloatBlock& g, std::int64_t i, Ahead& ahead) {
  const std::int64_t step = lanes();
  const float* HWY_RESTRICT b = g.b;
  const std::int64_t b_row = g.b_stride;
  float* HWY_RESTRICT c = g.c + i * g.c_stride;
  Vector sums[kRows][kVectors];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) sums[r][v] = g.add ? load(c + r * g.c_stride + v * step) : zero();
  }
  const std::int64_t a_row = g.a_stride;
  const std::int64_t to_next_strip = g.a_strip - kStrip;
  const float* HWY_RESTRICT a = g.a + i * a_row;
  std::int64_t left = g.k;
  for (bool ends_strip = false; left > 0; ends_strip = !ends_strip) {
    ahead.fetch();
    // The rows of the next tile. Runs of a strip are too short for the hardware to see them coming.
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
      for (std::int64_t l = 0; l < kTermsOfFetch; l += 16) __builtin_prefetch(a + (kRows + r) * a_row + l, 0, 2);
    }
    const std::int64_t terms = std::min(kTermsOfFetch, left);
    left -= terms;
    for (std::int64_t l = 0; l < terms; ++l, ++a, b += b_row) {
      Vector from_b[kVectors];
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) from_b[v] = load(b + v * step);
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        const Vector from_a = set(a[r * a_row]);
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) sums[r][v] = hn::MulAdd(from_a, from_b[v], sums[r][v]);
      }
    }
    if (ends_strip) a += to_next_strip;
  }
  if (g.stored != nullptr) return store_tile<kRows, kVectors>(*g.stored, i, sums);
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) store(sums[r][v], c + r * g.c_stride + v * step);
  }
}
template <int kVectors>
void tiles_of_rows(const FloatBlock& g, Ahead& ahead) {
  std::int64_t i = 0;
  for (; i + kTileRows <= g.rows; i += kTileRows) tile<kTileRows, kVectors>(g, i, ahead);
  for (; i + 2 <= g.rows; i += 2) tile<2, kVectors>(g, i, ahead);
  if (i < g.rows) tile<1, kVectors>(g, i, ahead);
}
void multiply_floats(const FloatBlock& g, std::int64_t width, Ahead& ahead) {
  const std::int64_t vectors = width / lanes();
  if constexpr (kPanelVectors == 4) {
    if (vectors == 4) return tiles_of_rows<4>(g, ahead);
    if (vectors == 3) return tiles_of_rows<3>(g, ahead);
  }
  (vectors == 2 ? tiles_of_rows<2> : tiles_of_rows<1>)(g, ahead);
}

// --- c = a b ---------------------------------------------------------------------------------------------------------

std::int64_t copy_stride(std::int64_t n) { return n + 32; }  // seldom a multiple of 4096 bytes

template <class From, class To>
void copy_rows(bool round, const From* from, std::int64_t stride, std::int64_t rows, std::int64_t n, To* to,
               std::int64_t to_stride, std::int64_t padded) {
  for (std::int64_t row = 0; row < rows; ++row) {
    const From* const x = from + row * stride;
    To* const y = to + row * to_stride;
    if (round) {
      for_vectors(n, [&](std::int64_t i, std::int64_t count) { store(rounded(load(x + i, count)), y + i, count); });
    } else {
      copy_elements(x, n, y);
    }
    std::fill(y + n, y + padded, To{});
  }
}
/// The rows of a as the way takes them: where they are, or a copy.
Matrix rows_of(Way way, const Matrix& a, std::int64_t rows, std::int64_t k, float* copy) {
  const bool bf16 = is_bf16(way);
  const std::int64_t padded = padded_terms(way, k);
  const Dtype wanted = multiplied_dtype(way);
  // Rows that lie a multiple of 4096 bytes apart fight for the same few lines of the first cache.
  const bool fight = a.row_step() * size_of(wanted) % 4096 == 0 && rows > 2;
  if (a.dtype == wanted && padded == k && way != Way::f32_of_rounded && !fight) return a;
  const std::int64_t stride = copy_stride(padded);
  for_strips(a, k, [&](const auto* data, std::int64_t j, std::int64_t n) {
    const std::int64_t filled = j + n == k ? padded - j : n;
    if (bf16) {
      copy_rows(false, data, a.row_step(), rows, n, reinterpret_cast<Bf16*>(copy) + j, stride, filled);
    } else {
      copy_rows(way == Way::f32_of_rounded, data, a.row_step(), rows, n, copy + j, stride, filled);
    }
  });
  return {copy, wanted, stride};
}

/// Where a row of results goes; in bf16 perhaps by the instructions that round, two vectors at a time.
template <class T, bool kByInstruction>
class RowTo {
 public:
  static constexpr bool kInTwos = kByInstruction;
  explicit RowTo(T* to) : to_(to) {}
  HWY_INLINE void put(Vector x, std::int64_t i, std::int64_t count) const {
#if VITRAIL_OPS_CPU_MULTIPLIES_PAIRS
    if constexpr (kByInstruction) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to_ + i), round_one(x));
      return;
    }
#endif
    store(x, to_ + i, count);
  }
  /// Two whole vectors, in bf16 as one line: what reads it soon does not wait for two stores.
  HWY_INLINE void put_both(Vector x, Vector next, std::int64_t i) const {
#if VITRAIL_OPS_CPU_MULTIPLIES_PAIRS
    if constexpr (kByInstruction) {
      _mm512_storeu_si512(to_ + i, round_both(x, next));
      return;
    }
#endif
    store(x, to_ + i);
    store(next, to_ + i + lanes());
  }

 private:
  T* to_;
};

struct Nowhere {
  HWY_INLINE void put(Vector, std::int64_t, std::int64_t) const {}
  HWY_INLINE void put_both(Vector, Vector, std::int64_t) const {}
};

struct TwoVectors {
  Vector first, second;
};
/// body(i, count), for all vectors of n elements, gives what goes to `first` and to `second`.
template <class First, class Second, class Body>
HWY_INLINE void put_rows(std::int64_t n, const First& first, const Second& second, const Body& body) {
  const std::int64_t step = lanes();
  std::int64_t i = 0;
  for (; Second::kInTwos && i + 2 * step <= n; i += 2 * step) {
    const TwoVectors x = body(i, step), next = body(i + step, step);
    first.put_both(x.first, next.first, i);
    second.put_both(x.second, next.second, i);
  }
  const auto put = [&](std::int64_t at, std::int64_t count) {
    const TwoVectors x = body(at, count);
    first.put(x.first, at, count);
    second.put(x.second, at, count);
  };
  for (; i + step <= n; i += step) put(i, step);
  if (i < n) put(i, n - i);
}

/// Finishes and writes rows x n sums; their first column is number `column`. kByInstruction: n is a multiple of 16.
template <class T, bool kByInstruction>
void finish(const Epilogue& e, const float* sums, std::int64_t sums_stride, std::int64_t rows, std::int64_t column,
            std::int64_t n) {
  const auto at = [&](auto* base, std::int64_t row, std::int64_t stride) {
    return base != nullptr ? base + row * stride + column : nullptr;
  };
  const std::int64_t first_stored = offset_of(0, column, 0, e.strip_rows);
  const auto stored = [&](void* base, std::int64_t row, std::int64_t stride) -> T* {
    return base != nullptr ? static_cast<T*>(base) + first_stored + row * row_step_of(stride, e.strip_rows) : nullptr;
  };
  using To = RowTo<T, kByInstruction>;
  constexpr auto kExactness = std::is_same_v<T, Bf16> ? Exactness::bf16 : Exactness::f32;
  const float* const bias = e.bias != nullptr ? e.bias + column : nullptr;
  for (std::int64_t row = 0; row < rows; ++row) {
    const float* const s = sums + row * sums_stride;
    const float* const residual = at(e.residual, row, e.stride);
    const float* const mask = at(e.mask, row, e.stride);
    T* const u = stored(e.u, row, e.stride);
    T* const h = stored(e.h, row, e.h_stride);
    T* const y = stored(e.y, row, e.y_stride);
    const auto biased = [&](std::int64_t i, std::int64_t count) {
      return bias != nullptr ? hn::Add(load(s + i), load(bias + i, count)) : load(s + i);
    };
    switch (e.finish) {
      case Finish::store:
        put_rows(n, Nowhere(), To(y), [&](std::int64_t i, std::int64_t count) {
          const Vector x = biased(i, count);
          return TwoVectors{x, residual != nullptr ? hn::Add(x, load(residual + i, count)) : x};
        });
        break;
      case Finish::add:
        for_vectors(n, [&](std::int64_t i, std::int64_t count) {
          store(hn::Add(load(s + i), load(y + i, count)), y + i, count);
        });
        break;
      case Finish::gelu:
        put_rows(n, To(u), To(y), [&](std::int64_t i, std::int64_t count) {
          const Vector x = biased(i, count);
          const Vector value = gelu<kExactness>(x);
          return TwoVectors{x, mask != nullptr ? hn::Mul(value, load(mask + i, count)) : value};
        });
        break;
      case Finish::gelu_backward:
        put_rows(n, To(h), To(y), [&](std::int64_t i, std::int64_t count) {
          Gelu g = gelu_and_slope<kExactness>(load(u + i, count));
          if (mask != nullptr) {
            const Vector factor = load(mask + i, count);
            g = {hn::Mul(g.value, factor), hn::Mul(g.slope, factor)};
          }
          return TwoVectors{g.value, hn::Mul(load(s + i), g.slope)};
        });
        break;
    }
  }
}

/// Whether results are to be written past the caches, and lie as whole vectors want that.
bool can_stream(const Epilogue& e, std::int64_t column, std::int64_t n) {
  const std::int64_t bytes = 4 * lanes();
  return e.stream && e.finish == Finish::store && e.bias == nullptr && e.residual == nullptr && e.dtype == Dtype::f32 &&
         e.strip_rows == 0 && n % lanes() == 0 && e.y_stride * 4 % bytes == 0 &&
         reinterpret_cast<std::uintptr_t>(static_cast<float*>(e.y) + column) % static_cast<std::uintptr_t>(bytes) == 0;
}

void stream_rows(const Epilogue& y, const float* sums, std::int64_t sums_stride, std::int64_t rows, std::int64_t column,
                 std::int64_t n) {
  float* const to = static_cast<float*>(y.y) + column;
  for (std::int64_t row = 0; row < rows; ++row) {
    for (std::int64_t i = 0; i < n; i += lanes())
      hn::Stream(load(sums + row * sums_stride + i), Floats(), to + row * y.y_stride + i);
  }
}

/// Finishes sixteen rows at a time, whose h is transposed then.
void finish_and_transpose(const Epilogue& e, const float* sums, std::int64_t sums_stride, std::int64_t rows,
                          std::int64_t column, std::int64_t n) {
  constexpr std::int64_t kRows = 16;
  HWY_ALIGN float block[kRows * kStrip];
  const std::int64_t first = offset_of(0, column, 0, e.strip_rows);
  for (std::int64_t row = 0; row < rows; row += kRows) {
    const std::int64_t count = std::min(kRows, rows - row);
    Epilogue some = e.at(row);
    some.u = static_cast<float*>(some.u) + first;
    some.y = static_cast<float*>(some.y) + first;
    if (some.mask != nullptr) some.mask += column;
    float* const h = static_cast<float*>(some.h) + column * e.h_stride;
    some.h = block;
    finish<float, false>(some, sums + row * sums_stride, sums_stride, count, 0, n);
    transpose(block, kStrip, count, n, h, e.h_stride, count);
  }
}

void finish(Way way, const Epilogue& e, const float* sums, std::int64_t sums_stride, std::int64_t rows,
            std::int64_t column, std::int64_t n) {
  if (e.h_transposed) return finish_and_transpose(e, sums, sums_stride, rows, column, n);
  if (can_stream(e, column, n)) return stream_rows(e, sums, sums_stride, rows, column, n);
  if (e.dtype == Dtype::f32) return finish<float, false>(e, sums, sums_stride, rows, column, n);
  (is_bf16(way) && n % 16 == 0 ? finish<Bf16, true> : finish<Bf16, false>)(e, sums, sums_stride, rows, column, n);
}

/// What finish will read and write.
void add_memory_of_finish(const Epilogue& e, std::int64_t rows, std::int64_t column, std::int64_t n, Ahead& ahead) {
  const std::int64_t bytes = size_of(e.dtype);
  const auto add = [&](const void* base, std::int64_t first, std::int64_t stride, std::int64_t element) {
    if (base != nullptr)
      ahead.add(static_cast<const char*>(base) + first * element, stride * element, n * element, rows);
  };
  const std::int64_t first_stored = offset_of(0, column, 0, e.strip_rows);
  add(e.u, first_stored, row_step_of(e.stride, e.strip_rows), bytes);
  if (!e.is_near) add(e.y, first_stored, row_step_of(e.y_stride, e.strip_rows), bytes);
  if (e.h_transposed) {
    ahead.add(static_cast<const float*>(e.h) + column * e.h_stride, e.h_stride * 4, rows * 4, n);
  } else {
    add(e.h, first_stored, row_step_of(e.h_stride, e.strip_rows), bytes);
  }
  add(e.residual, column, e.stride, 4);
}

std::int64_t MostTerms(Way way) { return is_bf16(way) ? 2 * kBlockOfBf16 : kBlockOfFloats; }
std::int64_t MostRows(Way way, std::int64_t k) {
  // Some 300 KiB of a, in whole tiles of every way.
  const std::int64_t row_bytes = std::clamp<std::int64_t>(k, 1, MostTerms(way)) * (is_bf16(way) ? 2 : 4);
  return std::clamp<std::int64_t>((std::int64_t{300} << 10) / row_bytes / 96, 1, 3) * 96;
}
std::int64_t PanelSums(Way way, std::int64_t rows, std::int64_t columns) {
  const std::int64_t panel = PanelColumns(way);
  return (columns + panel - 1) / panel * aligned_floats(rows * panel);
}
std::int64_t PanelScratch(Way way, std::int64_t rows, std::int64_t k) {
  return aligned_floats(rows * copy_stride(padded_terms(way, k)) * size_of(multiplied_dtype(way)) / 4);
}

/// A block of rows and one of k, on one panel.
struct PanelBlock {
  Matrix a;
  const char* b;
  std::int64_t terms;
  std::int64_t rows;
  std::int64_t width;
  float* sums;
  bool add;
  const Epilogue* stored;  // of multiply_floats and multiply_pairs
};
void multiply_block(Way way, const PanelBlock& p, Ahead& ahead) {
  const std::int64_t panel = PanelColumns(way);
  if (is_bf16(way)) {
    const Bf16Block g{p.rows,
                      p.width,
                      p.terms,
                      static_cast<const Bf16*>(p.a.data),
                      p.a.row_step(),
                      p.a.strip_step(),
                      reinterpret_cast<const std::uint32_t*>(p.b),
                      panel,
                      p.sums,
                      panel,
                      p.add,
                      &ahead,
                      p.stored};
    return (way == Way::bf16_tiles ? multiply_tiles : multiply_pairs)(g);
  }
  multiply_floats({p.rows, p.terms, static_cast<const float*>(p.a.data), p.a.row_step(), p.a.strip_step(),
                   reinterpret_cast<const float*>(p.b), panel, p.sums, panel, p.add, p.stored},
                  p.width, ahead);
}

/// Whether multiply_floats or multiply_pairs writes the results of whole vectors itself.
bool stores_itself(const PanelProduct& p, std::int64_t columns) {
  const Epilogue& e = p.epilogue;
  return p.last && p.way != Way::bf16_tiles && e.finish == Finish::store && e.dtype == Dtype::f32 &&
         e.strip_rows == 0 && columns % lanes() == 0;
}
/// From column `column` on.
Epilogue stored_from(const Epilogue& e, std::int64_t column) {
  const auto at = [&](auto* floats) { return floats != nullptr ? floats + column : nullptr; };
  Epilogue there = e;
  there.bias = at(e.bias);
  there.residual = at(e.residual);
  there.y = at(static_cast<float*>(e.y));
  return there;
}

void MultiplyPanels(const PanelProduct& p) {
  const std::int64_t panel = PanelColumns(p.way);
  const Matrix rows = rows_of(p.way, p.a, p.rows, p.k, p.scratch);
  const bool bf16 = is_bf16(p.way);
  const std::int64_t k = padded_terms(p.way, p.k);
  const std::int64_t block = bf16 ? kBlockOfBf16 : kBlockOfFloats;
  const char* packed = static_cast<const char*>(p.panels);
  float* sums = p.sums;
  for (std::int64_t j = 0; j < p.columns; j += panel) {
    const std::int64_t columns = std::min(panel, p.columns - j);
    const std::int64_t width = width_of(p.way, columns);
    Ahead ahead(p.later);
    const bool stores = stores_itself(p, columns);
    const bool streams = can_stream(p.epilogue, p.first_column + j, columns);
    Epilogue stored = stores ? stored_from(p.epilogue, p.first_column + j) : Epilogue();
    stored.stream = streams;
    if (p.last && !streams) add_memory_of_finish(p.epilogue, p.rows, p.first_column + j, columns, ahead);
    for (std::int64_t l = 0; l == 0 || l < k; l += block) {
      const std::int64_t terms = std::min(block, k - l);
      multiply_block(p.way,
                     {rows.at(0, l), packed + l * panel * size_of(multiplied_dtype(p.way)), terms, p.rows, width, sums,
                      !p.first || l > 0, stores && l + terms >= k ? &stored : nullptr},
                     ahead);
    }
    if (p.last && !stores) finish(p.way, p.epilogue, sums, panel, p.rows, p.first_column + j, columns);
    packed += PanelBytes(p.way, p.k);
    sums += aligned_floats(p.rows * panel);
  }
}

// --- c = x^T dy ------------------------------------------------------------------------------------------------------

/// Floats of a row of pairs, which may be written to whole vectors: not a multiple of 4096 bytes, and seldom of 1024.
constexpr std::int64_t pair_stride(std::int64_t n) { return round_up(n, 16) + 16; }

/// Where the scratch of a ColumnProduct is divided: sums, rows of the transpose of x, panels of dy.
struct ColumnScratch {
  ColumnScratch(Way way, std::int64_t m, std::int64_t n, std::int64_t k)
      : block(is_bf16(way) ? kBlockOfBf16 : kBlockOfFloats),
        stride(copy_stride(round_up(padded_terms(way, std::min(k, block)), 16))),
        rows(PanelSums(way, m, n)),
        panels(rows + aligned_floats(m * stride * size_of(multiplied_dtype(way)) / 4)),
        end(std::max(panels + PackedFloats(way, n, std::min(k, block)), floats_of_pairs(m, n, std::min(k, block)))) {}
  static std::int64_t floats_of_pairs(std::int64_t m, std::int64_t n, std::int64_t k) {
    return aligned_floats((k + 1) / 2 * pair_stride(m)) + (k + 1) / 2 * pair_stride(n);
  }
  std::int64_t block;   // of k
  std::int64_t stride;  // elements of a row
  std::int64_t rows, panels, end;
};
std::int64_t ColumnProductScratch(Way way, std::int64_t m, std::int64_t n, std::int64_t k) {
  return ColumnScratch(way, m, n, k).end;
}

/// Columns of x are rows of the product at no cost, so neither operand needs to be transposed: f32 is multiplied where
/// it lies, bf16 once its rows are in pairs. false, and nothing is done, where that cannot be. The sums are the same
/// bits as those of panels.
bool multiply_rows(const ColumnProduct& p, [[maybe_unused]] std::int64_t most_terms) {
  if (p.n % lanes() != 0) return false;
  SmallGemm g{.m = p.m,
              .n = p.n,
              .k = p.k,
              .a = static_cast<const float*>(p.x.data),
              .a_row = 1,
              .a_column = p.x.stride,
              .b = static_cast<const float*>(p.dy.data),
              .b_row = p.dy.stride,
              .c = static_cast<float*>(p.y.y),
              .c_row = p.y.y_stride,
              .add = p.y.finish == Finish::add};
  const auto is_where_it_lies = [](const Matrix& x) { return x.dtype == Dtype::f32 && x.strip_rows == 0; };
  if (p.way == Way::f32 && is_where_it_lies(p.x) && is_where_it_lies(p.dy)) {
    small_gemm<1>(g);
    return true;
  }
#if VITRAIL_OPS_CPU_MULTIPLIES_PAIRS
  if (p.way == Way::bf16_pairs && p.k <= most_terms) {
    const auto in_pairs = [&](const Matrix& from, std::int64_t columns, float* to, std::int64_t stride) {
      for_strips(from, columns, [&](const auto* data, std::int64_t j, std::int64_t count) {
        for (std::int64_t l = 0; l < p.k; l += 2) {
          const auto* const even = data + l * from.row_step();
          pair_rows(even, l + 1 < p.k ? even + from.row_step() : nullptr, count,
                    reinterpret_cast<std::uint32_t*>(to + l / 2 * stride + j));
        }
      });
      return to;
    };
    g.k = (p.k + 1) / 2;
    g.a_column = pair_stride(p.m);
    g.b_row = pair_stride(p.n);
    g.a = in_pairs(p.x, p.m, p.scratch, g.a_column);
    g.b = in_pairs(p.dy, p.n, p.scratch + aligned_floats(g.k * g.a_column), g.b_row);
    small_gemm<1, true>(g);
    return true;
  }
#endif
  return false;
}

void MultiplyColumns(const ColumnProduct& p) {
  const ColumnScratch at(p.way, p.m, p.n, p.k);
  if (multiply_rows(p, at.block)) {
    if (p.sums != nullptr) SumColumns(p.dy, p.k, p.n, p.sums, p.y.finish == Finish::add);
    return;
  }
  float* const rows = p.scratch + at.rows;
  float* const panels = p.scratch + at.panels;
  const Matrix a{rows, multiplied_dtype(p.way), at.stride};  // of the transpose of x
  for (std::int64_t l = 0; l == 0 || l < p.k; l += at.block) {
    const std::int64_t terms = std::min(at.block, p.k - l);
    const Matrix dy = p.dy.at(l, 0);
    TransposeOperand(p.way, p.x.at(l, 0), terms, p.m, rows, at.stride);
    PackPanels(p.way, terms, dy, 0, p.n, panels);
    if (p.sums != nullptr) SumColumns(dy, terms, p.n, p.sums, p.y.finish == Finish::add || l > 0);
    MultiplyPanels({after_rounding(p.way), p.m, padded_terms(p.way, terms), a, panels, 0, p.n, p.y, p.scratch, nullptr,
                    l == 0, l + at.block >= p.k});
  }
}

}  // namespace
}  // namespace vitrail::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace vitrail::cpu {

HWY_EXPORT(PanelColumns);
HWY_EXPORT(PanelBytes);
HWY_EXPORT(PackedFloats);
HWY_EXPORT(PackPanels);
HWY_EXPORT(TransposeOperand);
HWY_EXPORT(SumColumns);
HWY_EXPORT(MostRows);
HWY_EXPORT(MostTerms);
HWY_EXPORT(PanelSums);
HWY_EXPORT(PanelScratch);
HWY_EXPORT(MultiplyPanels);
HWY_EXPORT(ColumnProductScratch);
HWY_EXPORT(MultiplyColumns);

Epilogue Epilogue::at(std::int64_t row) const {
  const std::int64_t bytes = size_of(dtype);
  const auto floats = [&](const float* x) { return x != nullptr ? x + row * stride : nullptr; };
  const auto stored = [&](void* x, std::int64_t x_stride) -> void* {
    return x != nullptr ? static_cast<char*>(x) + offset_of(row, 0, x_stride, strip_rows) * bytes : nullptr;
  };
  Epilogue there = *this;
  there.residual = floats(residual);
  there.mask = floats(mask);
  there.u = stored(u, stride);
  there.h = h_transposed ? static_cast<float*>(h) + row / strip_rows * strip_rows * stride + row % strip_rows
                         : stored(h, h_stride);
  there.y = stored(y, y_stride);
  return there;
}

std::int64_t packed_floats(Way way, std::int64_t n, std::int64_t k) {
  return HWY_DYNAMIC_DISPATCH(PackedFloats)(way, n, k);
}

std::int64_t panel_columns(Way way) { return HWY_DYNAMIC_DISPATCH(PanelColumns)(way); }
std::int64_t panel_bytes(Way way, std::int64_t k) { return HWY_DYNAMIC_DISPATCH(PanelBytes)(way, k); }
void pack_panels(Way way, std::int64_t k, const Matrix& b, std::int64_t first, std::int64_t columns, void* to) {
  HWY_DYNAMIC_DISPATCH(PackPanels)(way, k, b, first, columns, to);
}
void transpose_operand(Way way, const Matrix& b, std::int64_t k, std::int64_t m, void* to, std::int64_t stride) {
  HWY_DYNAMIC_DISPATCH(TransposeOperand)(way, b, k, m, to, stride);
}
void sum_columns(const Matrix& b, std::int64_t k, std::int64_t n, float* sums, bool add) {
  HWY_DYNAMIC_DISPATCH(SumColumns)(b, k, n, sums, add);
}
std::int64_t most_rows(Way way, std::int64_t k) { return HWY_DYNAMIC_DISPATCH(MostRows)(way, k); }
std::int64_t most_terms(Way way) { return HWY_DYNAMIC_DISPATCH(MostTerms)(way); }
std::int64_t panel_sums(Way way, std::int64_t rows, std::int64_t columns) {
  return HWY_DYNAMIC_DISPATCH(PanelSums)(way, rows, columns);
}
std::int64_t panel_scratch(Way way, std::int64_t rows, std::int64_t k) {
  return HWY_DYNAMIC_DISPATCH(PanelScratch)(way, rows, k);
}
std::int64_t fetches_of(Way way, std::int64_t rows, std::int64_t k, std::int64_t columns) {
  const auto up = [](std::int64_t n, std::int64_t to) { return (n + to - 1) / to; };
  return up(k, kTermsOfFetch) * up(columns, panel_columns(way)) * up(rows, tile_rows(way));
}
void multiply(const PanelProduct& product) { HWY_DYNAMIC_DISPATCH(MultiplyPanels)(product); }
std::int64_t column_product_scratch(Way way, std::int64_t m, std::int64_t n, std::int64_t k) {
  return HWY_DYNAMIC_DISPATCH(ColumnProductScratch)(way, m, n, k);
}
void multiply(const ColumnProduct& product) { HWY_DYNAMIC_DISPATCH(MultiplyColumns)(product); }

}  // namespace vitrail::cpu
#endif  // HWY_ONCE
