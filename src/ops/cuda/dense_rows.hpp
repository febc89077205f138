#pragma once
// How the kernels beside the matrix products walk over [blocks rows n] matrices: V neighbouring elements of a row a
// thread, 32 threads along a row, 8 rows at a time, kRowsOfPiece rows a block of threads.

#include <cstdint>
#include <initializer_list>

#include "device/cuda/launch.hpp"
#include "ops/cuda/dense_kernels.hpp"
#include "ops/cuda/stored.hpp"

namespace vitrail::cuda {

inline constexpr int kLanes = 32;
inline constexpr int kRowsAtOnce = 8;
inline constexpr int kVector = 8;  // elements: 16 bytes of bf16, 32 of f32

/// Whether rows of n elements can be read and written kVector elements at a time.
inline bool vectors_fit(std::int64_t n, std::initializer_list<const void*> pointers) {
  bool fit = n % kVector == 0;
  for (const void* pointer : pointers) fit = fit && reinterpret_cast<std::uintptr_t>(pointer) % 16 == 0;
  return fit;
}

/// Calls work.operator()<V>() with the elements that a thread takes at a time.
template <class Work>
void dispatch_vectors(bool fit, Work&& work) {
  if (fit) return work.template operator()<kVector>();
  work.template operator()<1>();
}

/// A thread of x, y counts V columns and rows y, y + kRowsAtOnce, ... of piece blockIdx.x of matrix blockIdx.z.
template <int V>
Launch launch_of(const Rows& r, cudaStream_t stream) {
  VITRAIL_EXPECT(r.blocks <= 65535 && r.n <= std::int64_t{65535} * V * kLanes && r.pieces() < (std::int64_t{1} << 31),
                 ExitCode::other, text("a kernel for ", r.blocks, " x ", r.rows, " x ", r.n, " elements"),
                 "more than a grid can hold", "Use fewer leaves per pass");
  const auto count = [](std::int64_t n) { return static_cast<unsigned>(n); };
  return {.grid = dim3(count(r.pieces()), count((r.n + V * kLanes - 1) / (V * kLanes)), count(r.blocks)),
          .block = dim3(kLanes, kRowsAtOnce),
          .stream = stream};
}

template <class T, int V>
struct alignas(sizeof(T) * V < 16 ? sizeof(T) * V : 16) Packed {
  T elements[V];
};

template <int V, class T>
__device__ __forceinline__ void load(const T* from, float (&x)[V]) {
  const auto packed = *reinterpret_cast<const Packed<T, V>*>(from);
#pragma unroll
  for (int i = 0; i < V; ++i) x[i] = to_float(packed.elements[i]);
}
template <int V, class T>
__device__ __forceinline__ void store(const float (&x)[V], T* to) {
  Packed<T, V> packed;
#pragma unroll
  for (int i = 0; i < V; ++i) packed.elements[i] = from_float<T>(x[i]);
  *reinterpret_cast<Packed<T, V>*>(to) = packed;
}

/// This thread's column, and the rows [first, end) of its piece; nothing is left for it when column >= n.
template <int V>
struct Place {
  std::int64_t column, first, end, block;
  __device__ explicit Place(const Rows& r)
      : column((static_cast<std::int64_t>(blockIdx.y) * kLanes + threadIdx.x) * V),
        first(static_cast<std::int64_t>(blockIdx.x) * kRowsOfPiece),
        end(first + kRowsOfPiece < r.rows ? first + kRowsOfPiece : r.rows),
        block(blockIdx.z) {}
};

template <int V>
struct ColumnSums {
  float of_warp[kRowsAtOnce][V][kLanes];
};

/// Adds the threads' sums of one column in the order of y and writes them to partial[block][piece][n].
template <int V>
__device__ __forceinline__ void write_partial(const Rows& r, const Place<V>& place, const float (&sums)[V],
                                              ColumnSums<V>& shared, float* partial) {
#pragma unroll
  for (int i = 0; i < V; ++i) shared.of_warp[threadIdx.y][i][threadIdx.x] = sums[i];
  __syncthreads();
  const int thread = static_cast<int>(threadIdx.y * kLanes + threadIdx.x);
  const std::int64_t column = static_cast<std::int64_t>(blockIdx.y) * kLanes * V + thread;
  if (thread >= kLanes * V || column >= r.n) return;
  float sum = shared.of_warp[0][thread % V][thread / V];
  for (int y = 1; y < kRowsAtOnce; ++y) sum += shared.of_warp[y][thread % V][thread / V];
  partial[(place.block * r.pieces() + blockIdx.x) * r.n + column] = sum;
}

}  // namespace vitrail::cuda
