#pragma once
// How the kernels of Soft MoE walk over their tensors: a warp on a row of [tokens R] or [tokens D], a block on 32
// columns of a group or of mu.

#include <cstdint>

#include "device/cuda/launch.hpp"
#include "gpu_intrinsics.hpp"
#include "ops/cuda/fours.hpp"
#include "ops/cuda/token_lanes.hpp"

namespace vitrail::cuda {

/// The sizes of a call; a row is a token.
struct SoftSizes {
  std::int64_t leaves, groups;  // groups of a leaf
  int tokens, width, slots;     // S, D, R
  [[nodiscard]] std::int64_t rows() const { return leaves * groups * tokens; }
};
template <class Arguments>
SoftSizes soft_sizes_of(const Arguments& a) {
  return {a.x.shape[0], a.x.shape[1], static_cast<int>(a.x.shape[2]), static_cast<int>(a.mu.shape[0]),
          static_cast<int>(a.mu.shape[1])};
}

// --- rows ------------------------------------------------------------------------------------------------------------

/// Fours of a row of n columns: this lane's are those at(lane * 4), every 128th.
inline constexpr int kRowStep = 32 * 4;

inline Launch row_launch(std::int64_t rows, cudaStream_t stream) {
  return {.grid = token_blocks<32>(rows), .block = dim3(kTokenThreads), .stream = stream};
}

// --- columns ---------------------------------------------------------------------------------------------------------

inline constexpr int kColumns = 32;      // of a block
inline constexpr int kColumnTeams = 16;  // threads of a column

struct ColumnShared {
  float of_team[kColumnTeams][kColumns];
};
/// This thread's column of a block of 32, and its share of the column's entries: every kColumnTeams-th.
struct Column {
  __device__ explicit Column(int columns)
      : blocks((columns + kColumns - 1) / kColumns),
        matrix(blockIdx.x / static_cast<unsigned>(blocks)),
        index(static_cast<int>(blockIdx.x) % blocks * kColumns + static_cast<int>(threadIdx.x)),
        team(static_cast<int>(threadIdx.y)),
        there(index < columns) {}
  int blocks;
  std::int64_t matrix;
  int index, team;
  bool there;
};
inline Launch column_launch(std::int64_t matrices, int columns, cudaStream_t stream) {
  return {.grid = dim3(static_cast<unsigned>(matrices * ((columns + kColumns - 1) / kColumns))),
          .block = dim3(kColumns, kColumnTeams),
          .shared_bytes = sizeof(ColumnShared),
          .stream = stream};
}
/// f over the threads of a column, in their order; all get the result.
template <class F>
__device__ __forceinline__ float over_column(float mine, ColumnShared& shared, const F& f) {
  shared.of_team[threadIdx.y][threadIdx.x] = mine;
  __syncthreads();
  float all = shared.of_team[0][threadIdx.x];
  for (int team = 1; team < kColumnTeams; ++team) all = f(all, shared.of_team[team][threadIdx.x]);
  __syncthreads();
  return all;
}
__device__ __forceinline__ float column_sum(float mine, ColumnShared& shared) {
  return over_column(mine, shared, [](float a, float b) { return a + b; });
}

}  // namespace vitrail::cuda
