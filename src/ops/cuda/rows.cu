// The movement of rows between tokens and expert buffers: a warp per row, 16 bytes a lane.

#include <cstdint>

#include "device/cuda/launch.hpp"
#include "ops/cuda/cuda_ops.hpp"
#include "ops/cuda/stored.hpp"
#include "ops/cuda/token_lanes.hpp"
#include "ops/cuda/vectors.hpp"

namespace vitrail::cuda {
namespace {

using Row = TokenLane<32>;  // the row or token of this warp

/// Calls work.operator()<n>() with the elements that a lane moves at once: 16 bytes of the larger type X or Y, or 1
/// where rows are not aligned.
template <class X, class Y, class Work>
void dispatch_vectors(std::int64_t width, std::initializer_list<const void*> tensors, Work&& work) {
  constexpr int n = static_cast<int>(16 / std::max(sizeof(X), sizeof(Y)));
  bool aligned = width % n == 0;
  for (const void* data : tensors) aligned = aligned && reinterpret_cast<std::uintptr_t>(data) % 16 == 0;
  if (aligned) return work.template operator()<n>();
  work.template operator()<1>();
}

/// y[r] = x[source[r] div K], zeros where the row is empty.
template <int n, class X, class Y>
__global__ void __launch_bounds__(kTokenThreads)
    gather_rows(const X* x, const std::int32_t* source, int choices, Y* y, std::int64_t rows, int width) {
  const Row at;
  if (at.token >= rows) return;
  const int assignment = source[at.token];
  const X* const from = x + std::int64_t{assignment < 0 ? 0 : assignment / choices} * width;
  Y* const to = y + at.token * width;
#pragma unroll 2
  for (int i = at.lane * n; i < width; i += 32 * n) {
    float v[n] = {};
    if (assignment >= 0) load(from + i, v);
    store(v, to + i);
  }
}

/// y[t] = residual[t] + sum over j of gate[t,j] * o[row[t,j]], j ascending, dropped ones left out.
template <class O, class Y>
struct AddRows {
  const O* o;
  const std::int32_t* row;
  const float* gate;      // nullptr: 1
  const float* residual;  // nullptr: 0; may be y
  Y* y;
  std::int64_t tokens;
  int choices, width;
};

template <int n, class O, class Y>
__global__ void __launch_bounds__(kTokenThreads) add_rows(AddRows<O, Y> a) {
  const Row at;
  if (at.token >= a.tokens) return;
  const std::int32_t* const row = a.row + at.token * a.choices;
  const float* const gate = a.gate != nullptr ? a.gate + at.token * a.choices : nullptr;
  const std::int64_t first = at.token * a.width;
  for (int i = at.lane * n; i < a.width; i += 32 * n) {
    float sum[n] = {};
    if (a.residual != nullptr) load(a.residual + first + i, sum);
    for (int j = 0; j < a.choices; ++j) {
      if (row[j] < 0) continue;
      float o[n];
      load(a.o + std::int64_t{row[j]} * a.width + i, o);
      const float of_choice = gate != nullptr ? gate[j] : 1.0F;
#pragma unroll
      for (int k = 0; k < n; ++k) sum[k] = fmaf(of_choice, o[k], sum[k]);
    }
    store(sum, a.y + first + i);
  }
}

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
template <int n, class O>
__global__ void __launch_bounds__(kTokenThreads) add_rows_backward(AddRowsBackward<O> a) {
  const Row at;
  if (at.token >= a.rows) return;
  const std::int64_t first = at.token * a.width;
  const int assignment = a.source[at.token];
  if (assignment < 0) {
    const float zeros[n] = {};
    for (int i = at.lane * n; i < a.width; i += 32 * n) store(zeros, a.d_o + first + i);
    return;
  }
  const float* const dy = a.dy + std::int64_t{assignment / a.choices} * a.width;
  const float gate = a.gate[assignment];
  float inner = 0.0F;
  for (int i = at.lane * n; i < a.width; i += 32 * n) {
    float d[n], o[n];
    load(dy + i, d);
    load(a.o + first + i, o);
#pragma unroll
    for (int k = 0; k < n; ++k) {
      inner = fmaf(d[k], o[k], inner);
      d[k] *= gate;
    }
    store(d, a.d_o + first + i);
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

template <class O, class Y>
void launch_add_rows(const AddRows<O, Y>& a, cudaStream_t stream) {
  dispatch_vectors<float, float>(a.width, {a.o, a.residual, a.y}, [&]<int n>() {
    launch(add_rows<n, O, Y>, {.grid = token_blocks<32>(a.tokens), .block = dim3(kTokenThreads), .stream = stream}, a);
  });
}

}  // namespace

void CudaOps::run(const GatherRowsForward& a) {
  const std::int64_t rows = a.y.shape[0], width = a.y.shape[1];
  dispatch_stored(a.x.dtype, [&]<class X>() {
    dispatch_stored(a.y.dtype, [&]<class Y>() {
      dispatch_vectors<X, Y>(width, {a.x.data, a.y.data}, [&]<int n>() {
        launch(gather_rows<n, X, Y>, {.grid = token_blocks<32>(rows), .block = dim3(kTokenThreads), .stream = stream()},
               data_of<X>(a.x), data_of<std::int32_t>(a.source), static_cast<int>(a.choices), data_of<Y>(a.y), rows,
               static_cast<int>(width));
      });
    });
  });
}

void CudaOps::run(const GatherRowsBackward& a) {
  dispatch_stored(a.dy.dtype, [&]<class O>() {
    dispatch_stored(a.dx.dtype, [&]<class Y>() {
      launch_add_rows(AddRows<O, Y>{data_of<O>(a.dy), data_of<std::int32_t>(a.row), nullptr,
                                    a.dresidual ? data_of<float>(a.dresidual) : nullptr, data_of<Y>(a.dx),
                                    a.dx.shape[0], static_cast<int>(a.row.shape[1]), static_cast<int>(a.dx.shape[1])},
                      stream());
    });
  });
}

void CudaOps::run(const CombineRowsForward& a) {
  dispatch_stored(a.o.dtype, [&]<class O>() {
    launch_add_rows(AddRows<O, float>{data_of<O>(a.o), data_of<std::int32_t>(a.row), data_of<float>(a.gate),
                                      a.residual ? data_of<float>(a.residual) : nullptr, data_of<float>(a.y),
                                      a.y.shape[0], static_cast<int>(a.row.shape[1]), static_cast<int>(a.y.shape[1])},
                    stream());
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
    dispatch_vectors<float, O>(width, {a.dy.data, a.o.data, a.d_o.data}, [&]<int n>() {
      launch(add_rows_backward<n, O>,
             {.grid = token_blocks<32>(rows), .block = dim3(kTokenThreads), .stream = stream()}, backward);
    });
  });
}

}  // namespace vitrail::cuda
