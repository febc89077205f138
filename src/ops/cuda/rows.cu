// The movement of rows between tokens and expert buffers: a warp per row, four elements a lane.

#include <cstdint>

#include "device/cuda/launch.hpp"
#include "ops/cuda/cuda_ops.hpp"
#include "ops/cuda/fours.hpp"
#include "ops/cuda/token_lanes.hpp"

namespace vitrail::cuda {
namespace {

/// y[r] = x[source[r] div K], zeros where the row is empty.
template <class X, class Y>
struct Gather {
  const X* x;
  const std::int32_t* source;
  Y* y;
  int choices;

  template <bool aligned>
  __device__ void at(std::int64_t row, std::int64_t column, std::int64_t width) const {
    const int assignment = source[row];
    Four four{};
    if (assignment >= 0) four = load_four<aligned>(x + std::int64_t{assignment / choices} * width, column, width);
    store_four<aligned>(four, y + row * width, column, width);
  }
};

/// y[t] = residual[t] + sum over j of gate[t,j] * o[row[t,j]], j ascending, dropped ones left out.
template <class O, class Y>
struct AddRows {
  const O* o;
  const std::int32_t* row;
  const float* gate;      // nullptr: 1
  const float* residual;  // nullptr: 0; may be y
  Y* y;
  int choices;

  template <bool aligned>
  __device__ void at(std::int64_t token, std::int64_t column, std::int64_t width) const {
    Four sum{};
    if (residual != nullptr) sum = load_four<aligned>(residual + token * width, column, width);
    for (std::int64_t i = token * choices; i < (token + 1) * choices; ++i) {
      if (row[i] < 0) continue;
      const Four four = load_four<aligned>(o + row[i] * width, column, width);
      const float of_choice = gate != nullptr ? gate[i] : 1.0F;
#pragma unroll
      for (int k = 0; k < 4; ++k) sum.v[k] = fmaf(of_choice, four.v[k], sum.v[k]);
    }
    store_four<aligned>(sum, y + token * width, column, width);
  }
};

template <class O>
struct AddRowsBackward {
  const float* dy;
  const O* o;
  const std::int32_t* source;
  const float* gate;
  O* d_o;  // may be o
  float* dgate;
  std::int64_t rows;
  int choices, width;
};

/// d_o[r] = gate[a] dy[token of a], dgate[a] = <dy[token of a], o[r]> for the assignment a of row r: one warp does
/// both, for no other looks at o[r].
template <bool aligned, class O>
__global__ void __launch_bounds__(kTokenThreads) add_rows_backward(AddRowsBackward<O> a) {
  const TokenLane<32> at;  // a row
  if (at.token >= a.rows) return;
  const O* const o = a.o + at.token * a.width;
  O* const d_o = a.d_o + at.token * a.width;
  const int assignment = a.source[at.token];
  if (assignment < 0) {
    for (int i = at.lane * 4; i < a.width; i += 32 * 4) store_four<aligned>(Four{}, d_o, i, a.width);
    return;
  }
  const float* const dy = a.dy + std::int64_t{assignment / a.choices} * a.width;
  const float gate = a.gate[assignment];
  float inner = 0.0F;
  for (int i = at.lane * 4; i < a.width; i += 32 * 4) {
    Four d = load_four<aligned>(dy, i, a.width);
    const Four four = load_four<aligned>(o, i, a.width);
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      inner = fmaf(d.v[k], four.v[k], inner);
      d.v[k] *= gate;
    }
    store_four<aligned>(d, d_o, i, a.width);
  }
  inner = sum_of<32>(inner);
  if (at.lane == 0) a.dgate[assignment] = inner;
}

/// dgate of assignments that are in no row.
__global__ void __launch_bounds__(kTokenThreads)
    clear_dropped(const std::int32_t* row, float* dgate, std::int64_t assignments) {
  const std::int64_t i = TokenLane<1>().token;
  if (i < assignments && row[i] < 0) dgate[i] = 0.0F;
}

}  // namespace

void CudaOps::run(const GatherRowsForward& a) {
  const std::int64_t rows = a.y.shape[0], width = a.y.shape[1];
  dispatch_stored(a.x.dtype, [&]<class X>() {
    dispatch_stored(a.y.dtype, [&]<class Y>() {
      const Gather<X, Y> work{data_of<X>(a.x), data_of<std::int32_t>(a.source), data_of<Y>(a.y),
                              static_cast<int>(a.choices)};
      launch_on_rows(work, rows, width, rows_aligned_to_fours(width, work.x, work.y), stream());
    });
  });
}

void CudaOps::run(const GatherRowsBackward& a) {
  const std::int64_t tokens = a.dx.shape[0], width = a.dx.shape[1];
  dispatch_stored(a.dy.dtype, [&]<class O>() {
    dispatch_stored(a.dx.dtype, [&]<class Y>() {
      const AddRows<O, Y> work{data_of<O>(a.dy), data_of<std::int32_t>(a.row),    nullptr, data_of<float>(a.dresidual),
                               data_of<Y>(a.dx), static_cast<int>(a.row.shape[1])};
      launch_on_rows(work, tokens, width, rows_aligned_to_fours(width, work.o, work.residual, work.y), stream());
    });
  });
}

void CudaOps::run(const CombineRowsForward& a) {
  const std::int64_t tokens = a.y.shape[0], width = a.y.shape[1];
  dispatch_stored(a.o.dtype, [&]<class O>() {
    const AddRows<O, float> work{data_of<O>(a.o),        data_of<std::int32_t>(a.row),
                                 data_of<float>(a.gate), data_of<float>(a.residual),
                                 data_of<float>(a.y),    static_cast<int>(a.row.shape[1])};
    launch_on_rows(work, tokens, width, rows_aligned_to_fours(width, work.o, work.residual, work.y), stream());
  });
}

void CudaOps::run(const CombineRowsBackward& a) {
  VITRAIL_EXPECT(a.o.dtype == a.d_o.dtype, ExitCode::other, "combine_rows_backward got o and d_o of different dtypes",
                 "the cuda back end keeps both the same way", "This is a bug in the calling layer");
  const std::int64_t rows = a.o.shape[0], width = a.o.shape[1], assignments = a.row.elements();
  launch(clear_dropped, {.grid = token_blocks<1>(assignments), .block = dim3(kTokenThreads), .stream = stream()},
         data_of<std::int32_t>(a.row), data_of<float>(a.dgate), assignments);
  dispatch_stored(a.o.dtype, [&]<class O>() {
    const AddRowsBackward<O> backward{data_of<float>(a.dy),
                                      data_of<O>(a.o),
                                      data_of<std::int32_t>(a.source),
                                      data_of<float>(a.gate),
                                      data_of<O>(a.d_o),
                                      data_of<float>(a.dgate),
                                      rows,
                                      static_cast<int>(a.row.shape[1]),
                                      static_cast<int>(width)};
    dispatch_bool(rows_aligned_to_fours(width, backward.dy, backward.o, backward.d_o), [&]<bool aligned>() {
      launch(add_rows_backward<aligned, O>,
             {.grid = token_blocks<32>(rows), .block = dim3(kTokenThreads), .stream = stream()}, backward);
    });
  });
}

}  // namespace vitrail::cuda
