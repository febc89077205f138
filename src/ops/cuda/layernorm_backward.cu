// dx, dscale and dbias in one pass over dy and x. A block takes a fixed run of a leaf's rows and keeps the sums of its
// columns in registers; then the blocks' sums are added in order, then the leaves' over their tree.

#include "ops/cuda/cuda_ops.hpp"
#include "ops/cuda/leaf_sums.hpp"
#include "ops/cuda/row_team.hpp"

namespace vitrail::cuda {

namespace {

template <class Dy, class X, class Dx>
struct LayernormGradient {
  const Dy* dy;  // may be dx
  const X* x;
  const float* scale;
  const float* mean;
  const float* rstd;
  const float* dresidual;  // or null; may be dx
  Dx* dx;
  float* sums;        // [leaves blocks 2 D]: of dscale and dbias
  std::int64_t rows;  // of a leaf
  int run;            // rows of a block
  int width;
};

template <class Form>
struct GradientShared {
  TeamShared team;
  alignas(16) float columns[Form::warp ? Form::teams : 1][Form::warp ? Form::most_columns : 4];
};

// The columns' sums of all teams, added in the order of the teams.
template <class Form>
__device__ void write_sums(const RowTeam<Form>& team, const Four (&sums)[Form::fours], float* to, int width,
                           GradientShared<Form>& shared) {
#pragma unroll
  for (int f = 0; f < Form::fours; ++f) {
    const int column = team.column(f);
    if constexpr (Form::warp) {
      store_four<true>(sums[f], shared.columns[team.index()], column, Form::most_columns);
    } else {
      store_four<Form::aligned>(sums[f], to, column, width);
    }
  }
  if constexpr (Form::warp) {
    __syncthreads();
    for (int c = static_cast<int>(threadIdx.x); c < width; c += Form::most_threads) {
      float sum = shared.columns[0][c];
      for (int t = 1; t < Form::teams; ++t) sum += shared.columns[t][c];
      to[c] = sum;
    }
    __syncthreads();
  }
}

// xh = (x - mean) rstd;  dxh = dy scale;  dx = dresidual + rstd (dxh - mean(dxh) - xh mean(dxh xh))
template <class Dy, class X, class Dx, class Form>
__global__ void __launch_bounds__(Form::most_threads) normalize_rows_backward(LayernormGradient<Dy, X, Dx> a) {
  auto& shared = shared_memory<GradientShared<Form>>();
  RowTeam<Form> team(shared.team);
  Four dscale[Form::fours] = {}, dbias[Form::fours] = {};
  const std::int64_t first = std::int64_t{blockIdx.x} * a.run;
  const std::int64_t last = min(first + a.run, a.rows);
  for (std::int64_t r = first + team.index(); r < last; r += Form::teams) {
    const std::int64_t row = blockIdx.y * a.rows + r;
    const float mean = a.mean[row], rstd = a.rstd[row];
    Four dxh[Form::fours], xh[Form::fours];
#pragma unroll
    for (int f = 0; f < Form::fours; ++f) {
      dxh[f] = load_four<Form::aligned>(a.dy + row * a.width, team.column(f), a.width);
      xh[f] = load_four<Form::aligned>(a.x + row * a.width, team.column(f), a.width);
    }
    float sums[2] = {};  // of dxh, of dxh xh
#pragma unroll
    for (int f = 0; f < Form::fours; ++f) {
      const Four scale = load_constant_four<Form::aligned>(a.scale, team.column(f), a.width);  // 0 behind the row
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        float& d = dxh[f].v[j];
        float& x = xh[f].v[j];
        x = (x - mean) * rstd;
        dbias[f].v[j] += d;
        dscale[f].v[j] = fmaf(d, x, dscale[f].v[j]);
        d *= scale.v[j];
        sums[0] += d;
        sums[1] = fmaf(d, x, sums[1]);
      }
    }
    team.sum(sums);
    const float mean_dxh = sums[0] / static_cast<float>(a.width);
    const float mean_dxh_xh = sums[1] / static_cast<float>(a.width);
#pragma unroll
    for (int f = 0; f < Form::fours; ++f) {
      Four dx{};
      if (a.dresidual != nullptr) dx = load_four<Form::aligned>(a.dresidual + row * a.width, team.column(f), a.width);
#pragma unroll
      for (int j = 0; j < 4; ++j) dx.v[j] = fmaf(rstd, dxh[f].v[j] - mean_dxh - xh[f].v[j] * mean_dxh_xh, dx.v[j]);
      store_four<Form::aligned>(dx, a.dx + row * a.width, team.column(f), a.width);
    }
  }
  float* to = a.sums + (std::int64_t{blockIdx.y} * gridDim.x + blockIdx.x) * 2 * a.width;
  write_sums<Form>(team, dscale, to, a.width, shared);
  write_sums<Form>(team, dbias, to + a.width, a.width, shared);
}

/// Rows of a block, by those of a leaf: enough blocks to fill a GPU, few enough that their sums weigh little.
int rows_of_block(std::int64_t rows) {
  if (rows >= 16384) return 64;
  if (rows >= 1024) return 32;
  return rows >= 256 ? 16 : 8;
}

}  // namespace

void CudaOps::run(const LayernormBackward& a) {
  const std::int64_t leaves = a.x.shape[0], rows = a.x.shape[1], width = a.x.shape[2];
  const int run = rows_of_block(rows);
  const std::int64_t blocks = (rows + run - 1) / run;
  auto* sums = workspace<float>(Scratch::a, leaves * blocks * 2 * width);
  auto* leaf_sums = workspace<float>(Scratch::b, leaves * 2 * width);
  dispatch_stored(a.dy.dtype, [&]<class Dy>() {
    dispatch_stored(a.x.dtype, [&]<class X>() {
      dispatch_stored(a.dx.dtype, [&]<class Dx>() {
        const LayernormGradient<Dy, X, Dx> arguments{data_of<Dy>(a.dy),
                                                     data_of<X>(a.x),
                                                     data_of<float>(a.scale),
                                                     data_of<float>(a.mean),
                                                     data_of<float>(a.rstd),
                                                     data_of<float>(a.dresidual),
                                                     data_of<Dx>(a.dx),
                                                     sums,
                                                     rows,
                                                     run,
                                                     static_cast<int>(width)};
        const bool aligned =
            rows_aligned_to_fours(width, arguments.dy, arguments.x, arguments.scale, arguments.dresidual, arguments.dx);
        dispatch_row_form(width, aligned, [&]<class Form>() {
          launch(normalize_rows_backward<Dy, X, Dx, Form>,
                 {.grid = dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(leaves)),
                  .block = row_threads<Form>(width),
                  .shared_bytes = sizeof(GradientShared<Form>),
                  .stream = stream()},
                 arguments);
        });
      });
    });
  });
  launch_sum_in_leaf(sums, leaves, blocks, 2 * width, leaf_sums, stream());
  const SumPart dscale{data_of<float>(a.dscale), 0, width};
  const SumPart dbias{data_of<float>(a.dbias), width, a.dbias ? width : 0};
  launch_tree_of_leaves(leaf_sums, leaves, 2 * width, dscale, dbias, stream());
}

}  // namespace vitrail::cuda
