#pragma once
// Tiles of bf16 tokens in shared memory, and the operands that the tensor cores read from them.

#include <cstdint>
#include <cstring>

#include "gpu_intrinsics.hpp"
#include "ops/cuda/attention_places.hpp"

namespace vitrail::cuda {

/// Tokens that travel to shared memory together.
inline constexpr int kTileTokens = 64;

__device__ __forceinline__ int thread_of_block() { return static_cast<int>(threadIdx.x); }
__device__ __forceinline__ int warp_of_block() { return thread_of_block() / 32; }
__device__ __forceinline__ int lane_of_warp() { return thread_of_block() % 32; }

/// Rows of kWidth numbers (zeros behind the head's width). A row is an odd number of 16-byte vectors long, so eight
/// rows begin in eight different groups of banks: no ldmatrix has a conflict.
template <int kRows, int kWidth>
struct alignas(16) Tile {
  static_assert(kWidth % 16 == 0);
  static constexpr int kStride = kWidth + 8;
  Bfloat16 x[kRows][kStride];
};

/// Starts to load tokens first, first + 1 ... of a head; zeros stand for those that do not exist. By all threads of the
/// block; the vectors arrive as one's part of the next cp_async group.
template <int kThreads, int kRows, int kWidth>
__device__ __forceinline__ void load_tile(Tile<kRows, kWidth>& to, const TokenRows<const Bfloat16>& from, int first) {
  if (from.vectors) {
    constexpr int kVectors = kWidth / 8;
    constexpr int kLanes = kVectors >= 8 ? 8 : (kVectors >= 4 ? 4 : 2);  // work on one row
    constexpr int kRowsAtOnce = kThreads / kLanes;
    static_assert(kRows % kRowsAtOnce == 0);
    int row = thread_of_block() / kLanes;
    const int column = thread_of_block() % kLanes * 8;
    const Bfloat16* source = from.token(first + row) + column;
#pragma unroll
    for (int pass = 0; pass < kRows / kRowsAtOnce; ++pass) {
#pragma unroll
      for (int step = 0; step < kVectors; step += kLanes) {
        if (kVectors % kLanes != 0 && column / 8 + step >= kVectors) continue;
        const bool exists = first + row < from.tokens && column + 8 * step < from.width;
        cp_async_16(&to.x[row][column + 8 * step], exists ? source + 8 * step : from.origin, exists ? 16 : 0);
      }
      row += kRowsAtOnce;
      source += static_cast<std::int64_t>(kRowsAtOnce) * from.stride;
    }
  } else {
    for (int i = thread_of_block(); i < kRows * kWidth; i += kThreads) {
      const int row = i / kWidth;
      const int column = i % kWidth;
      const bool exists = first + row < from.tokens && column < from.width;
      to.x[row][column] = exists ? from.token(first + row)[column] : __float2bfloat16_rn(0.0F);
    }
  }
}

/// Writes kRows rows of a tile, from tile_row on, to tokens first, first + 1 ... that exist. By one warp.
template <int kRows, int kTileRows, int kWidth>
__device__ __forceinline__ void store_rows(const Tile<kTileRows, kWidth>& from, int tile_row,
                                           const TokenRows<Bfloat16>& to, int first) {
  constexpr int kStep = 8;
  for (int i = lane_of_warp(); i < kRows * (kWidth / kStep); i += 32) {
    const int row = i / (kWidth / kStep);
    const int column = i % (kWidth / kStep) * kStep;
    if (first + row >= to.tokens || column >= to.width) continue;
    const Bfloat16* const source = &from.x[tile_row + row][column];
    Bfloat16* const target = to.token(first + row) + column;
    if (to.vectors) {
      store_vector(target, vector_at<uint4>(source));
    } else {
      for (int j = 0; j < kStep && column + j < to.width; ++j) target[j] = source[j];
    }
  }
}

/// Two numbers as an operand of mma: the first in the low half.
__device__ __forceinline__ std::uint32_t packed(float first, float second) {
  const __nv_bfloat162 both = __float22bfloat162_rn(make_float2(first, second));
  std::uint32_t bits;
  std::memcpy(&bits, &both, sizeof bits);
  return bits;
}
__device__ __forceinline__ float2 unpacked(std::uint32_t bits) {
  return make_float2(__uint_as_float(bits << 16), __uint_as_float(bits & 0xFFFF0000U));
}

/// A = 16 rows and 16 columns of a tile.
template <class AnyTile>
__device__ __forceinline__ void load_a(std::uint32_t (&a)[4], const AnyTile& tile, int row, int column) {
  const int lane = lane_of_warp();
  ldmatrix_x4(a, &tile.x[row + lane % 16][column + lane / 16 * 8]);
}
/// B[k][n] = tile[row + n][column + k]: 16 k and two operands of 8 n.
template <class AnyTile>
__device__ __forceinline__ void load_b_transposed(std::uint32_t (&b)[4], const AnyTile& tile, int row, int column) {
  const int lane = lane_of_warp();
  ldmatrix_x4(b, &tile.x[row + lane / 16 * 8 + lane % 8][column + lane / 8 % 2 * 8]);
}
/// B[k][n] = tile[row + k][column + n]: 16 k and two operands of 8 n.
template <class AnyTile>
__device__ __forceinline__ void load_b(std::uint32_t (&b)[4], const AnyTile& tile, int row, int column) {
  const int lane = lane_of_warp();
  ldmatrix_x4_trans(b, &tile.x[row + lane % 16][column + lane / 16 * 8]);
}
/// d[0] and d[1] += A times the two operands of b.
__device__ __forceinline__ void multiply_add(float (&d0)[4], float (&d1)[4], const std::uint32_t (&a)[4],
                                             const std::uint32_t (&b)[4]) {
  const std::uint32_t b0[2] = {b[0], b[1]};
  const std::uint32_t b1[2] = {b[2], b[3]};
  mma_m16n8k16(d0, a, b0);
  mma_m16n8k16(d1, a, b1);
}

/// Two results of mma (16 x 8 each, side by side) as the next product's A.
__device__ __forceinline__ void as_a(std::uint32_t (&a)[4], const float (&left)[4], const float (&right)[4]) {
  a[0] = packed(left[0], left[1]);
  a[1] = packed(left[2], left[3]);
  a[2] = packed(right[0], right[1]);
  a[3] = packed(right[2], right[3]);
}
/// What as_a's rounding left over, rounded in its turn.
__device__ __forceinline__ void rest_as_a(std::uint32_t (&rest)[4], const std::uint32_t (&a)[4], const float (&left)[4],
                                          const float (&right)[4]) {
  const float2 first = unpacked(a[0]), second = unpacked(a[1]), third = unpacked(a[2]), fourth = unpacked(a[3]);
  rest[0] = packed(left[0] - first.x, left[1] - first.y);
  rest[1] = packed(left[2] - second.x, left[3] - second.y);
  rest[2] = packed(right[0] - third.x, right[1] - third.y);
  rest[3] = packed(right[2] - fourth.x, right[3] - fourth.y);
}

/// Rounds a warp's 16 x kWidth results, times a factor for rows 0-7 and one for rows 8-15 of each eight lanes' rows (g
/// and g + 8), into a tile.
template <int kRows, int kWidth>
__device__ __forceinline__ void keep_results(Tile<kRows, kWidth>& to, int row, const float (&d)[kWidth / 8][4],
                                             float upper, float lower) {
  const int lane = lane_of_warp();
#pragma unroll
  for (int n = 0; n < kWidth / 8; ++n) {
    const int column = 8 * n + lane % 4 * 2;
    store_vector(&to.x[row + lane / 4][column], __float22bfloat162_rn(make_float2(d[n][0] * upper, d[n][1] * upper)));
    store_vector(&to.x[row + lane / 4 + 8][column],
                 __float22bfloat162_rn(make_float2(d[n][2] * lower, d[n][3] * lower)));
  }
}

/// Calls work.operator()<kWidth>() with the width padded to whole steps of mma.
template <class Work>
void dispatch_width(int width, Work&& work) {
  switch ((width + 15) / 16) {
    case 1:
      return work.template operator()<16>();
    case 2:
      return work.template operator()<32>();
    case 3:
      return work.template operator()<48>();
    case 4:
      return work.template operator()<64>();
    case 5:
      return work.template operator()<80>();
    case 6:
      return work.template operator()<96>();
    case 7:
      return work.template operator()<112>();
    default:
      VITRAIL_EXPECT(width <= kWidestBf16Head, ExitCode::other, text("a head of width ", width),
                     "the kernels in bf16 end at 128", "This is a bug in the calling verb");
      return work.template operator()<128>();
  }
}

}  // namespace vitrail::cuda
