#pragma once
// Threads that hold one row of a matrix in registers: a warp for rows of up to 1,024 columns, else a block.

#include <cstdint>

#include <cuda_runtime.h>

#include "base/error.hpp"
#include "gpu_intrinsics.hpp"
#include "ops/cuda/fours.hpp"

namespace vitrail::cuda {

/// How a kernel holds rows: `warp` or block, how many fours a thread has, and whether they are aligned.
template <bool warp_, int fours_, bool aligned_>
struct RowForm {
  static constexpr bool warp = warp_;
  static constexpr int fours = fours_;
  static constexpr bool aligned = aligned_;
  static constexpr int teams = warp ? 4 : 1;                // of a block of threads
  static constexpr int most_threads = warp ? 4 * 32 : 512;  // of a block
  static constexpr int most_columns = most_threads / teams * fours * 4;
};

/// Sums of a team that is a block. Two of them, so that one barrier a sum is enough.
struct TeamShared {
  float sums[2][2][16];
};

template <class Form>
class RowTeam {
 public:
  __device__ explicit RowTeam(TeamShared& shared) : shared_(shared) {}
  /// Which of the block's teams this is.
  [[nodiscard]] __device__ int index() const { return Form::warp ? static_cast<int>(threadIdx.x) / 32 : 0; }
  [[nodiscard]] __device__ int rank() const { return static_cast<int>(threadIdx.x) % size(); }
  /// The first column of this thread's four number `four`.
  [[nodiscard]] __device__ int column(int four) const { return (four * size() + rank()) * 4; }

  /// Sums over the team, for each of at most two values; all threads get them.
  template <int count>
  __device__ void sum(float (&values)[count]) {
    static_assert(count <= 2);
#pragma unroll
    for (int mask = 16; mask > 0; mask /= 2) {
#pragma unroll
      for (int i = 0; i < count; ++i) values[i] += __shfl_xor_sync(0xFFFFFFFFU, values[i], mask);
    }
    if constexpr (!Form::warp) {
      auto& sums = shared_.sums[turn_];
      turn_ ^= 1;
      const int warps = static_cast<int>(blockDim.x) / 32;
      if (threadIdx.x % 32 == 0) {
        for (int i = 0; i < count; ++i) sums[i][threadIdx.x / 32] = values[i];
      }
      __syncthreads();
      for (int i = 0; i < count; ++i) {
        values[i] = sums[i][0];
        for (int w = 1; w < warps; ++w) values[i] += sums[i][w];
      }
    }
  }

 private:
  [[nodiscard]] __device__ int size() const { return Form::warp ? 32 : static_cast<int>(blockDim.x); }

  TeamShared& shared_;
  int turn_ = 0;
};

/// The widest row.
inline constexpr std::int64_t kMostColumns = RowForm<false, 4, true>::most_columns;

/// Calls work.operator()<Form>() with the form for rows of `width` columns. The order of a row's sums depends on the
/// width alone: it is the same whether fours are aligned or not.
template <class Work>
void dispatch_row_form(std::int64_t width, bool aligned, Work&& work) {
  VITRAIL_EXPECT(width <= kMostColumns, ExitCode::usage, text("rows of ", width, " columns"),
                 text("layer norms of the cuda back end take at most ", kMostColumns), "Use a narrower model");
  if (!aligned && width <= 1024) return work.template operator()<RowForm<true, 8, false>>();
  if (!aligned) return work.template operator()<RowForm<false, 4, false>>();
  if (width <= 256) return work.template operator()<RowForm<true, 2, true>>();
  if (width <= 512) return work.template operator()<RowForm<true, 4, true>>();
  if (width <= 768) return work.template operator()<RowForm<true, 6, true>>();
  if (width <= 1024) return work.template operator()<RowForm<true, 8, true>>();
  if (width <= 2048) return work.template operator()<RowForm<false, 1, true>>();
  work.template operator()<RowForm<false, 4, true>>();
}

/// Threads of a block of a kernel of this form.
template <class Form>
unsigned row_threads(std::int64_t width) {
  if (Form::warp) return Form::most_threads;
  const std::int64_t fours = width <= 2048 ? 1 : 4;  // whatever the form: see above
  return static_cast<unsigned>((width + 4 * fours - 1) / (4 * fours) + 31) / 32 * 32;
}

}  // namespace vitrail::cuda
