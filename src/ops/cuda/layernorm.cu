// y = (x - mean) * rstd * scale + bias: one pass over x.

#include "ops/cuda/cuda_ops.hpp"
#include "ops/cuda/row_team.hpp"

namespace vitrail::cuda {

namespace {

constexpr float kEpsilon = 1e-6F;

template <class X, class Y>
struct LayernormRows {
  const X* x;
  const float* scale;
  const float* bias;  // or null
  Y* y;
  float* mean;
  float* rstd;
  std::int64_t rows;
  int width;
};

template <class X, class Y, class Form>
__global__ void __launch_bounds__(Form::most_threads) normalize_rows(LayernormRows<X, Y> a) {
  RowTeam<Form> team(shared_memory<TeamShared>());
  const std::int64_t row = std::int64_t{blockIdx.x} * Form::teams + team.index();
  if (row >= a.rows) return;
  const X* from = a.x + row * a.width;
  Four x[Form::fours];
  float sum[1] = {};
#pragma unroll
  for (int f = 0; f < Form::fours; ++f) x[f] = load_four<Form::aligned>(from, team.column(f), a.width);
#pragma unroll
  for (int f = 0; f < Form::fours; ++f) sum[0] += (x[f].v[0] + x[f].v[1]) + (x[f].v[2] + x[f].v[3]);
  team.sum(sum);
  const float mean = sum[0] / static_cast<float>(a.width);

  float squares[1] = {};
#pragma unroll
  for (int f = 0; f < Form::fours; ++f) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      x[f].v[j] = team.column(f) + j < a.width ? x[f].v[j] - mean : 0.0F;
      squares[0] = fmaf(x[f].v[j], x[f].v[j], squares[0]);
    }
  }
  team.sum(squares);
  const float rstd = 1.0F / sqrtf(squares[0] / static_cast<float>(a.width) + kEpsilon);

#pragma unroll
  for (int f = 0; f < Form::fours; ++f) {
    const int column = team.column(f);
    const Four scale = load_constant_four<Form::aligned>(a.scale, column, a.width);
    Four bias{};
    if (a.bias != nullptr) bias = load_constant_four<Form::aligned>(a.bias, column, a.width);
#pragma unroll
    for (int j = 0; j < 4; ++j) x[f].v[j] = fmaf(x[f].v[j] * rstd, scale.v[j], bias.v[j]);
    store_four<Form::aligned>(x[f], a.y + row * a.width, column, a.width);
  }
  if (team.rank() == 0) {
    a.mean[row] = mean;
    a.rstd[row] = rstd;
  }
}

}  // namespace

void CudaOps::run(const LayernormForward& a) {
  const std::int64_t rows = a.x.shape[0] * a.x.shape[1], width = a.x.shape[2];
  dispatch_stored(a.x.dtype, [&]<class X>() {
    dispatch_stored(a.y.dtype, [&]<class Y>() {
      const LayernormRows<X, Y> arguments{data_of<X>(a.x),
                                          data_of<float>(a.scale),
                                          data_of<float>(a.bias),
                                          data_of<Y>(a.y),
                                          data_of<float>(a.mean),
                                          data_of<float>(a.rstd),
                                          rows,
                                          static_cast<int>(width)};
      const bool aligned = rows_aligned_to_fours(width, arguments.x, arguments.scale, arguments.bias, arguments.y);
      dispatch_row_form(width, aligned, [&]<class Form>() {
        launch(normalize_rows<X, Y, Form>,
               {.grid = static_cast<unsigned>((rows + Form::teams - 1) / Form::teams),
                .block = row_threads<Form>(width),
                .shared_bytes = sizeof(TeamShared),
                .stream = stream()},
               arguments);
      });
    });
  });
}

}  // namespace vitrail::cuda
