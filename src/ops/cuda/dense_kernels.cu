#include "gpu_intrinsics.hpp"
#include "ops/cuda/dense_kernels.hpp"
#include "ops/cuda/dense_rows.hpp"

namespace vitrail::cuda {

namespace {

constexpr int kThreads = 256;

/// Blocks of kThreads threads that take V elements each.
unsigned blocks_for(std::int64_t count, int per_thread) {
  return static_cast<unsigned>((count + std::int64_t{kThreads} * per_thread - 1) /
                               (std::int64_t{kThreads} * per_thread));
}

__device__ __forceinline__ std::int64_t thread_index() {
  return static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
}

template <class From, class To, int V>
__global__ void __launch_bounds__(kThreads)
    convert_kernel(const From* __restrict__ from, To* __restrict__ to, std::int64_t count) {
  const std::int64_t first = thread_index() * V;
  if (first + V > count) {
    for (std::int64_t i = first; i < count; ++i) to[i] = from_float<To>(to_float(from[i]));
    return;
  }
  float x[V];
  load<V>(from + first, x);
  store<V>(x, to + first);
}

template <int V>
__global__ void __launch_bounds__(kThreads)
    add_kernel(const float* __restrict__ x, float* __restrict__ sum, std::int64_t count) {
  const std::int64_t first = thread_index() * V;
  if (first + V > count) {
    for (std::int64_t i = first; i < count; ++i) sum[i] += x[i];
    return;
  }
  float a[V], b[V];
  load<V>(sum + first, a);
  load<V>(x + first, b);
#pragma unroll
  for (int i = 0; i < V; ++i) a[i] += b[i];
  store<V>(a, sum + first);
}

template <class From, class To, int V>
__global__ void __launch_bounds__(kThreads)
    read_rows_kernel(Rows r, const From* __restrict__ from, To* __restrict__ copy, std::int64_t copy_stride,
                     float* __restrict__ partial) {
  const Place<V> place(r);
  float sums[V] = {};
  if (place.column < r.n) {
#pragma unroll 4
    for (std::int64_t row = place.first + threadIdx.y; row < place.end; row += kRowsAtOnce) {
      float x[V];
      load<V>(from + (place.block * r.rows + row) * r.n + place.column, x);
#pragma unroll
      for (int i = 0; i < V; ++i) sums[i] += x[i];
      if (copy != nullptr) store<V>(x, copy + (place.block * r.rows + row) * copy_stride + place.column);
    }
  }
  if (partial != nullptr) write_partial<V>(r, place, sums, shared_memory<ColumnSums<V>>(), partial);
}

constexpr int kWarps = 32;  // of a block that adds up pieces
constexpr int kMostLevels = 40;

struct PieceSums {
  float of_warp[kWarps][kLanes];
  float level[kMostLevels][kLanes];  // sums of 1, 2, 4 ... leaves that wait for their neighbours
};

__global__ void __launch_bounds__(kLanes* kWarps) column_sums_kernel(PartialSums a) {
  auto& shared = shared_memory<PieceSums>();
  const unsigned lane = threadIdx.x;
  const std::int64_t index = static_cast<std::int64_t>(blockIdx.x) * kLanes + lane;
  const bool mine = index < a.experts * a.n;
  const std::int64_t expert = mine ? index / a.n : 0;
  const std::int64_t column = mine ? index % a.n : 0;
  float total = 0.0F;
  for (std::int64_t leaf = 0; leaf < a.leaves; ++leaf) {
    const float* const pieces = a.partial + (leaf * a.experts + expert) * a.pieces * a.n + column;
    float sum = 0.0F;
    if (mine) {
#pragma unroll 4
      for (std::int64_t piece = threadIdx.y; piece < a.pieces; piece += kWarps) sum += pieces[piece * a.n];
    }
    shared.of_warp[threadIdx.y][lane] = sum;
    __syncthreads();
    if (threadIdx.y == 0) {
      total = 0.0F;
      for (int warp = 0; warp < kWarps; ++warp) total += shared.of_warp[warp][lane];
      int level = 0;
      for (std::int64_t waiting = leaf; waiting % 2 == 1; waiting /= 2) total = shared.level[level++][lane] + total;
      shared.level[level][lane] = total;
    }
    __syncthreads();
  }
  if (mine && threadIdx.y == 0) a.sums[index] = total;
}

template <class X, class Y, int V>
__global__ void __launch_bounds__(kThreads)
    finish_kernel(Rows r, const X* x, const float* bias, std::int64_t experts, const float* residual, Y* y) {
  const Place<V> place(r);
  if (place.column >= r.n) return;
  float b[V] = {};
  if (bias != nullptr) load<V>(bias + place.block % experts * r.n + place.column, b);
#pragma unroll 4
  for (std::int64_t row = place.first + threadIdx.y; row < place.end; row += kRowsAtOnce) {
    const std::int64_t at = (place.block * r.rows + row) * r.n + place.column;
    float sum[V];
    float beside[V] = {};
    load<V>(x + at, sum);
    if (residual != nullptr) load<V>(residual + at, beside);
#pragma unroll
    for (int i = 0; i < V; ++i) sum[i] = sum[i] + b[i] + beside[i];
    store<V>(sum, y + at);
  }
}

}  // namespace

void convert(ConstElements from, Elements to, std::int64_t count, cudaStream_t stream) {
  dispatch_stored(from.dtype, [&]<class From>() {
    dispatch_stored(to.dtype, [&]<class To>() {
      dispatch_vectors(vectors_fit(kVector, {from.data, to.data}), [&]<int V>() {
        launch(convert_kernel<From, To, V>, {.grid = blocks_for(count, V), .block = kThreads, .stream = stream},
               static_cast<const From*>(from.data), static_cast<To*>(to.data), count);
      });
    });
  });
}

void add(const float* x, float* sum, std::int64_t count, cudaStream_t stream) {
  dispatch_vectors(vectors_fit(kVector, {x, sum}), [&]<int V>() {
    launch(add_kernel<V>, {.grid = blocks_for(count, V), .block = kThreads, .stream = stream}, x, sum, count);
  });
}

void read_rows(const Rows& rows, ConstElements from, const RowsRead& to, cudaStream_t stream) {
  const bool fit = vectors_fit(rows.n, {from.data, to.copy.data}) && to.copy_stride % kVector == 0;
  dispatch_stored(from.dtype, [&]<class From>() {
    dispatch_stored(to.copy.dtype, [&]<class To>() {
      dispatch_vectors(fit, [&]<int V>() {
        Launch how = launch_of<V>(rows, stream);
        how.shared_bytes = sizeof(ColumnSums<V>);
        launch(read_rows_kernel<From, To, V>, how, rows, static_cast<const From*>(from.data),
               static_cast<To*>(to.copy.data), to.copy_stride, to.partial);
      });
    });
  });
}

void finish_column_sums(const PartialSums& sums, cudaStream_t stream) {
  launch(column_sums_kernel,
         {.grid = static_cast<unsigned>((sums.experts * sums.n + kLanes - 1) / kLanes),
          .block = dim3(kLanes, kWarps),
          .shared_bytes = sizeof(PieceSums),
          .stream = stream},
         sums);
}

void finish(const Rows& rows, const Finish& a, cudaStream_t stream) {
  const bool fit = vectors_fit(rows.n, {a.x.data, a.bias, a.residual, a.y.data});
  dispatch_stored(a.x.dtype, [&]<class X>() {
    dispatch_stored(a.y.dtype, [&]<class Y>() {
      dispatch_vectors(fit, [&]<int V>() {
        launch(finish_kernel<X, Y, V>, launch_of<V>(rows, stream), rows, static_cast<const X*>(a.x.data), a.bias,
               a.experts, a.residual, static_cast<Y*>(a.y.data));
      });
    });
  });
}

}  // namespace vitrail::cuda
