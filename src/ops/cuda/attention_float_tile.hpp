#pragma once
// Tiles of f32 tokens in shared memory and their products, for blocks of 16 x 16 threads. Thread (x, y) has the rows
// kPer y, kPer y + 1 ... and the columns x, x + 16 ... of every result. The 16 threads of a row are half a warp.

#include <cstdint>

#include "gpu_intrinsics.hpp"
#include "ops/cuda/attention_places.hpp"

namespace vitrail::cuda {

inline constexpr int kFloatThreads = 256;

/// A row is an odd number of 16-byte vectors long: eight rows begin in eight different groups of banks.
template <int kRows, int kColumns>
struct alignas(16) FloatTile {
  static_assert(kRows % 16 == 0 && kColumns % 16 == 0);
  float x[kRows][kColumns + 4];
};

__device__ __forceinline__ int column_of_thread() { return static_cast<int>(threadIdx.x) % 16; }
template <int kPer>
__device__ __forceinline__ int row_of_thread() {
  return static_cast<int>(threadIdx.x) / 16 * kPer;
}

/// Tokens first, first + 1 ... of a head; zeros stand for those that do not exist. By all threads.
template <int kRows, int kWidth>
__device__ __forceinline__ void load_tile(FloatTile<kRows, kWidth>& to, const TokenRows<const float>& from, int first) {
  if (from.vectors) {
    for (int i = static_cast<int>(threadIdx.x); i < kRows * (kWidth / 4); i += kFloatThreads) {
      const int row = i / (kWidth / 4);
      const int column = i % (kWidth / 4) * 4;
      const bool exists = first + row < from.tokens && column < from.width;
      cp_async_16(&to.x[row][column], exists ? from.token(first + row) + column : from.origin, exists ? 16 : 0);
    }
    cp_async_commit();
    cp_async_wait<0>();
  } else {
    for (int i = static_cast<int>(threadIdx.x); i < kRows * kWidth; i += kFloatThreads) {
      const int row = i / kWidth;
      const int column = i % kWidth;
      const bool exists = first + row < from.tokens && column < from.width;
      to.x[row][column] = exists ? from.token(first + row)[column] : 0.0F;
    }
  }
}

/// to[i][j] = <row kPer y + i of a, row x + 16 j of b>.
template <int kPer, int kRows, int kWidth>
__device__ __forceinline__ void multiply_rows(float (&to)[kPer][kPer], const FloatTile<kRows, kWidth>& a,
                                              const FloatTile<kRows, kWidth>& b) {
#pragma unroll
  for (int i = 0; i < kPer; ++i) {
#pragma unroll
    for (int j = 0; j < kPer; ++j) to[i][j] = 0.0F;
  }
#pragma unroll 2
  for (int c = 0; c < kWidth; c += 4) {
    float4 left[kPer], right[kPer];
#pragma unroll
    for (int i = 0; i < kPer; ++i) {
      left[i] = vector_at<float4>(&a.x[row_of_thread<kPer>() + i][c]);
      right[i] = vector_at<float4>(&b.x[column_of_thread() + 16 * i][c]);
    }
#pragma unroll
    for (int i = 0; i < kPer; ++i) {
#pragma unroll
      for (int j = 0; j < kPer; ++j) {
        to[i][j] = fmaf(left[i].x, right[j].x, to[i][j]);
        to[i][j] = fmaf(left[i].y, right[j].y, to[i][j]);
        to[i][j] = fmaf(left[i].z, right[j].z, to[i][j]);
        to[i][j] = fmaf(left[i].w, right[j].w, to[i][j]);
      }
    }
  }
}

/// to[i][j] += sum over s of weights(s)[i] from[s][x + 16 j], where weights(s) gives a thread's rows their kPer
/// factors.
template <int kPer, int kRows, int kWidth, class Weights>
__device__ __forceinline__ void mix_rows(float (&to)[kPer][kWidth / 16], const FloatTile<kRows, kWidth>& from,
                                         const Weights& weights) {
#pragma unroll 4
  for (int s = 0; s < kRows; ++s) {
    float factors[kPer];
    weights(s, factors);
#pragma unroll
    for (int j = 0; j < kWidth / 16; ++j) {
      const float x = from.x[s][column_of_thread() + 16 * j];
#pragma unroll
      for (int i = 0; i < kPer; ++i) to[i][j] = fmaf(factors[i], x, to[i][j]);
    }
  }
}

/// The thread's rows of a result, times a factor of each, to tokens `first` + row.
template <int kPer, int kWidth>
__device__ __forceinline__ void store_results(const float (&from)[kPer][kWidth / 16], const float (&factors)[kPer],
                                              const TokenRows<float>& to, int first) {
#pragma unroll
  for (int i = 0; i < kPer; ++i) {
    const int token = first + row_of_thread<kPer>() + i;
    if (token >= to.tokens) continue;
#pragma unroll
    for (int j = 0; j < kWidth / 16; ++j) {
      const int column = column_of_thread() + 16 * j;
      if (column < to.width) to.token(token)[column] = from[i][j] * factors[i];
    }
  }
}

/// Over the 16 threads of a row, to all of them.
__device__ __forceinline__ float sum_over_row(float x) {
#pragma unroll
  for (int distance = 8; distance > 0; distance /= 2) x += __shfl_xor_sync(0xFFFFFFFFU, x, distance);
  return x;
}
__device__ __forceinline__ float largest_of_row(float x) {
#pragma unroll
  for (int distance = 8; distance > 0; distance /= 2) x = fmaxf(x, __shfl_xor_sync(0xFFFFFFFFU, x, distance));
  return x;
}

/// Calls work.operator()<kRows, kWidth>() with a padded width and tiles that fit shared memory.
template <class Work>
void dispatch_float_tile(int width, Work&& work) {
  if (width <= 32) return work.template operator()<64, 32>();
  if (width <= 64) return work.template operator()<64, 64>();
  if (width <= 96) return work.template operator()<64, 96>();
  if (width <= 128) return work.template operator()<64, 128>();
  VITRAIL_EXPECT(width <= kWidestFloatHead, ExitCode::other, text("a head of width ", width),
                 "the kernels in f32 end at 256", "This is a bug in the calling verb");
  work.template operator()<32, 256>();
}

}  // namespace vitrail::cuda
