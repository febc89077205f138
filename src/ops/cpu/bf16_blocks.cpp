#include "ops/cpu/bf16_blocks.hpp"

#include "base/error.hpp"
#include "ops/cpu/product_kernels.hpp"

#if defined(__x86_64__) && defined(__linux__)
#define VITRAIL_HAS_BF16_BLOCKS 1
#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#else
#define VITRAIL_HAS_BF16_BLOCKS 0
#endif

namespace vitrail::cpu {

#if VITRAIL_HAS_BF16_BLOCKS

namespace {

#define VITRAIL_PAIRS __attribute__((target("avx512f,avx512bf16"), always_inline)) inline

constexpr std::int64_t kLanes = 16;
constexpr std::int64_t kTerms = kTermsOfFetch;  // of k at a time: of a tile of a
static_assert(kTerms == 32 && kStrip % kTerms == 0);

/// Where term l, a multiple of kTerms, of a row of a stands.
inline std::int64_t place_of(const Bf16Block& g, std::int64_t l) { return l / kStrip * g.a_strip + l % kStrip; }

#define VITRAIL_ROUNDS __attribute__((target("avx512f,avx512bw,avx512vl,avx512bf16")))

/// Of as many lanes as there are, the first `count`.
VITRAIL_ROUNDS inline __mmask16 first(std::int64_t count) {
  return count >= kLanes ? __mmask16{0xFFFF} : static_cast<__mmask16>((1U << count) - 1U);
}

/// Finishes and writes sums, from row i on.
template <int kRows, int kVectors>
VITRAIL_PAIRS void store_pairs(const Epilogue& e, std::int64_t i, const __m512 (&sums)[kRows][kVectors]) {
  float* y = static_cast<float*>(e.y) + i * e.y_stride;
  const float* residual = e.residual != nullptr ? e.residual + i * e.stride : nullptr;
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      __m512 x = sums[r][v];
      if (e.bias != nullptr) x = _mm512_add_ps(x, _mm512_loadu_ps(e.bias + v * kLanes));
      if (residual != nullptr) x = _mm512_add_ps(x, _mm512_loadu_ps(residual + v * kLanes));
      e.stream ? _mm512_stream_ps(y + v * kLanes, x) : _mm512_storeu_ps(y + v * kLanes, x);
    }
    y += e.y_stride;
    if (residual != nullptr) residual += e.stride;
  }
}

/// kRows x kVectors accumulators, all in registers.
template <int kRows, int kVectors>
VITRAIL_PAIRS void pairs(const Bf16Block& g, std::int64_t i) {
  const std::uint32_t* b = g.b;
  float* const c = g.c + i * g.c_stride;
  __m512 sums[kRows][kVectors];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v)
      sums[r][v] = g.add ? _mm512_loadu_ps(c + r * g.c_stride + v * kLanes) : _mm512_setzero_ps();
  }
  for (std::int64_t begin = 0; begin < g.k; begin += kTerms) {
    g.ahead->fetch();
    const Bf16* const a = g.a + i * g.a_stride + place_of(g, begin);
    const std::int64_t terms = begin + kTerms < g.k ? kTerms : g.k - begin;
#pragma GCC unroll 2
    for (std::int64_t l = 0; l < terms; l += 2, b += g.b_stride) {
      __m512i from_b[kVectors];
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) from_b[v] = _mm512_loadu_si512(b + v * kLanes);
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        int pair = 0;
        __builtin_memcpy(&pair, a + r * g.a_stride + l, sizeof pair);
        const __m512i from_a = _mm512_set1_epi32(pair);
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v)
          sums[r][v] =
              _mm512_dpbf16_ps(sums[r][v], reinterpret_cast<__m512bh>(from_a), reinterpret_cast<__m512bh>(from_b[v]));
      }
    }
  }
  if (g.stored != nullptr) return store_pairs(*g.stored, i, sums);
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) _mm512_storeu_ps(c + r * g.c_stride + v * kLanes, sums[r][v]);
  }
}

template <int kVectors>
__attribute__((target("avx512f,avx512bf16"))) void pair_rows(const Bf16Block& g) {
  std::int64_t i = 0;
  for (; i + 6 <= g.rows; i += 6) pairs<6, kVectors>(g, i);
  for (; i + 2 <= g.rows; i += 2) pairs<2, kVectors>(g, i);
  if (i < g.rows) pairs<1, kVectors>(g, i);
}

// Tiles 0 to 3 are the sums (two times two), 4 and 5 come from a, 6 and 7 from b.
struct alignas(64) TileConfig {
  std::uint8_t palette = 1;
  std::uint8_t start_row = 0;
  std::uint8_t reserved[14] = {};
  std::uint16_t row_bytes[16] = {};
  std::uint8_t rows[16] = {};
};
TileConfig tile_config(std::int64_t upper, std::int64_t lower) {
  TileConfig config;
  for (int tile = 0; tile < 8; ++tile) {
    const bool is_lower = tile == 2 || tile == 3 || tile == 5;
    const std::int64_t rows = tile >= 6 ? 16 : is_lower ? (lower > 0 ? lower : 1) : upper;
    config.row_bytes[tile] = 64;
    config.rows[tile] = static_cast<std::uint8_t>(rows);
  }
  return config;
}

#define VITRAIL_TILES __attribute__((target("amx-tile,amx-bf16")))

/// One or two times one or two tiles of c, by the tiles' configuration.
template <bool kLower, bool kRight>
VITRAIL_TILES inline void tiles(const Bf16Block& g, std::int64_t i, std::int64_t j) {
  float* const upper_c = g.c + i * g.c_stride + j;
  float* const lower_c = upper_c + 16 * g.c_stride;
  const std::int64_t c_bytes = g.c_stride * 4;
  const std::int64_t a_bytes = g.a_stride * 2;
  const std::int64_t b_bytes = g.b_stride * 4;
  if (g.add) {
    _tile_loadd(0, upper_c, c_bytes);
    if constexpr (kRight) _tile_loadd(1, upper_c + 16, c_bytes);
    if constexpr (kLower) _tile_loadd(2, lower_c, c_bytes);
    if constexpr (kLower && kRight) _tile_loadd(3, lower_c + 16, c_bytes);
  } else {
    _tile_zero(0);
    if constexpr (kRight) _tile_zero(1);
    if constexpr (kLower) _tile_zero(2);
    if constexpr (kLower && kRight) _tile_zero(3);
  }
  const Bf16* const upper_a = g.a + i * g.a_stride;
  const Bf16* const lower_a = upper_a + 16 * g.a_stride;
  for (std::int64_t l = 0; l < g.k; l += kTerms) {
    g.ahead->fetch();
    const std::int64_t place = place_of(g, l);
    const std::uint32_t* const b = g.b + l / 2 * g.b_stride + j;
    _tile_loadd(4, upper_a + place, a_bytes);
    _tile_loadd(6, b, b_bytes);
    _tile_dpbf16ps(0, 4, 6);
    if constexpr (kRight) {
      _tile_loadd(7, b + 16, b_bytes);
      _tile_dpbf16ps(1, 4, 7);
    }
    if constexpr (kLower) {
      _tile_loadd(5, lower_a + place, a_bytes);
      _tile_dpbf16ps(2, 5, 6);
      if constexpr (kRight) _tile_dpbf16ps(3, 5, 7);
    }
  }
  _tile_stored(0, upper_c, c_bytes);
  if constexpr (kRight) _tile_stored(1, upper_c + 16, c_bytes);
  if constexpr (kLower) _tile_stored(2, lower_c, c_bytes);
  if constexpr (kLower && kRight) _tile_stored(3, lower_c + 16, c_bytes);
}

template <bool kLower>
VITRAIL_TILES void tile_columns(const Bf16Block& g, std::int64_t i) {
  std::int64_t j = 0;
  for (; j + 32 <= g.columns; j += 32) tiles<kLower, true>(g, i, j);
  if (j < g.columns) tiles<kLower, false>(g, i, j);
}

bool ask_for_tiles() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0) return false;
  constexpr unsigned kBf16AndTiles = (1U << 22) | (1U << 24);
  if ((d & kBf16AndTiles) != kBf16AndTiles) return false;
  // Linux gives the tiles' registers to those who ask.
  constexpr long kRequest = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequest, kTileData) == 0;
}

}  // namespace

VITRAIL_ROUNDS void round_pairs(const float* even, const float* odd, std::int64_t n, std::uint32_t* to) {
  // Both halves of what is rounded, element by element in turn.
  const __m512i in_turn = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                                           21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  for (std::int64_t i = 0; i < n; i += kLanes) {
    const __mmask16 some = first(n - i);
    const __m512 low = _mm512_maskz_loadu_ps(some, even + i);
    const __m512 high = odd != nullptr ? _mm512_maskz_loadu_ps(some, odd + i) : _mm512_setzero_ps();
    const auto halves = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low));
    _mm512_storeu_si512(to + i, _mm512_permutexvar_epi16(in_turn, halves));
  }
}

VITRAIL_ROUNDS void round_row(const float* from, std::int64_t n, Bf16* to) {
  std::int64_t i = 0;
  for (; i + 2 * kLanes <= n; i += 2 * kLanes) {  // whole lines: what reads them soon does not wait for two stores
    const __m512 low = _mm512_loadu_ps(from + i);
    const __m512 high = _mm512_loadu_ps(from + i + kLanes);
    _mm512_storeu_si512(to + i, reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low)));
  }
  for (; i < n; i += kLanes) {
    const __mmask16 some = first(n - i);
    const auto halves = reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(some, from + i)));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + i), halves);
  }
}

void multiply_pairs(const Bf16Block& g) {
  switch (g.columns / kLanes) {
    case 4:
      return pair_rows<4>(g);
    case 3:
      return pair_rows<3>(g);
    case 2:
      return pair_rows<2>(g);
    default:
      return pair_rows<1>(g);
  }
}

VITRAIL_TILES void multiply_tiles(const Bf16Block& g) {
  std::int64_t i = 0;
  if (g.rows >= 32) {
    const TileConfig whole = tile_config(16, 16);
    _tile_loadconfig(&whole);
    for (; i + 32 <= g.rows; i += 32) tile_columns<true>(g, i);
  }
  if (i < g.rows) {
    const std::int64_t rest = g.rows - i;
    const TileConfig part = tile_config(rest < 16 ? rest : 16, rest - 16);
    _tile_loadconfig(&part);
    (rest > 16 ? tile_columns<true> : tile_columns<false>)(g, i);
  }
  _tile_release();
}

bool has_bf16_tiles() {
  static const bool has = ask_for_tiles();
  return has;
}

#else

namespace {
[[noreturn]] void refuse() {
  fail(ExitCode::other, {"a product by instructions of another kind of processor", "nobody may have asked for it", ""});
}
}  // namespace
void round_pairs(const float*, const float*, std::int64_t, std::uint32_t*) { refuse(); }
void round_row(const float*, std::int64_t, Bf16*) { refuse(); }
void multiply_pairs(const Bf16Block&) { refuse(); }
void multiply_tiles(const Bf16Block&) { refuse(); }
bool has_bf16_tiles() { return false; }

#endif

}  // namespace vitrail::cpu
