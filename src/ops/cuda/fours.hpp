#pragma once
// Four elements at a time: how kernels that are bound by memory read and write tensors. A four of an f32 tensor is one
// access of 16 bytes, one of a bf16 tensor 8. Where rows or pointers do not allow that, the same four is read element
// by element, so that no result depends on where a tensor lies.

#include <cstdint>

#include <cuda_runtime.h>

#include "device/cuda/launch.hpp"
#include "ops/cuda/stored.hpp"

namespace vitrail::cuda {

struct Four {
  float v[4];
};

template <class T>
struct alignas(4 * sizeof(T)) FourInMemory {
  T v[4];
};

__device__ __forceinline__ float to_float(std::uint8_t x) { return static_cast<float>(x); }

/// Elements i .. i+3 of x, 0 from n on. `aligned`: one access; then x + i is aligned to four elements, and the four
/// lies before n or behind it as a whole.
template <bool aligned, class T>
__device__ __forceinline__ Four load_four(const T* x, std::int64_t i, std::int64_t n) {
  Four four{};
  if constexpr (aligned) {
    if (i < n) {
      const auto memory = *reinterpret_cast<const FourInMemory<T>*>(x + i);
#pragma unroll
      for (int j = 0; j < 4; ++j) four.v[j] = to_float(memory.v[j]);
    }
  } else {
#pragma unroll
    for (int j = 0; j < 4; ++j) four.v[j] = i + j < n ? to_float(x[i + j]) : 0.0F;
  }
  return four;
}

/// The same of a tensor that nobody writes to meanwhile; such loads may be made early.
template <bool aligned>
__device__ __forceinline__ Four load_constant_four(const float* x, int i, int n) {
  Four four{};
  if constexpr (aligned) {
    if (i < n) {
      const float4 memory = __ldg(reinterpret_cast<const float4*>(x + i));
      four = {{memory.x, memory.y, memory.z, memory.w}};
    }
  } else {
#pragma unroll
    for (int j = 0; j < 4; ++j) four.v[j] = i + j < n ? __ldg(x + i + j) : 0.0F;
  }
  return four;
}

/// Writes what lies before n; alignment as above.
template <bool aligned, class T>
__device__ __forceinline__ void store_four(const Four& four, T* y, std::int64_t i, std::int64_t n) {
  if constexpr (aligned) {
    if (i >= n) return;
    FourInMemory<T> memory;
#pragma unroll
    for (int j = 0; j < 4; ++j) memory.v[j] = from_float<T>(four.v[j]);
    *reinterpret_cast<FourInMemory<T>*>(y + i) = memory;
  } else {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if (i + j < n) y[i + j] = from_float<T>(four.v[j]);
    }
  }
}

/// Whether the fours of all these tensors are aligned where each begins; those left out count as aligned.
template <class... T>
bool aligned_to_fours(const T*... tensors) {
  return ((reinterpret_cast<std::uintptr_t>(tensors) % (4 * sizeof(T)) == 0) && ...);
}
/// The same for rows of this width.
template <class... T>
bool rows_aligned_to_fours(std::int64_t width, const T*... tensors) {
  return width % 4 == 0 && aligned_to_fours(tensors...);
}

/// Calls work.operator()<true>() or <false>.
template <class Work>
void dispatch_bool(bool value, Work&& work) {
  if (value) return work.template operator()<true>();
  work.template operator()<false>();
}

inline constexpr int kElementThreads = 256;

template <bool aligned, class Work>
__global__ void __launch_bounds__(kElementThreads) on_elements(Work work, std::int64_t n) {
  const std::int64_t i = (std::int64_t{blockIdx.x} * kElementThreads + threadIdx.x) * 4;
  if (aligned && i + 4 <= n) {  // NOLINT(bugprone-branch-clone): alike only where this one is never taken
    work.template at<aligned>(i, n);
  } else if (i < n) {
    work.template at<false>(i, n);
  }
}

/// work.at<aligned>(i, n) for every fourth element i of n.
template <class Work>
void launch_on_elements(const Work& work, std::int64_t n, bool aligned, cudaStream_t stream) {
  const auto blocks = static_cast<unsigned>((n + 4 * kElementThreads - 1) / (4 * kElementThreads));
  dispatch_bool(aligned, [&]<bool a>() {
    launch(on_elements<a, Work>, {.grid = blocks, .block = kElementThreads, .stream = stream}, work, n);
  });
}

inline constexpr int kRowWarps = 8;
inline constexpr int kRowPart = 1024;  // columns that one warp takes

template <bool aligned, class Work>
__global__ void __launch_bounds__(kRowWarps * 32) on_rows(Work work, std::int64_t rows, std::int64_t width) {
  const std::int64_t row = std::int64_t{blockIdx.x} * kRowWarps + threadIdx.x / 32;
  if (row >= rows) return;
  const std::int64_t first = std::int64_t{blockIdx.y} * kRowPart + threadIdx.x % 32 * 4;
#pragma unroll
  for (int c = 0; c < kRowPart; c += 32 * 4) {
    if (first + c < width) work.template at<aligned>(row, first + c, width);
  }
}

/// work.at<aligned>(row, column, width) for every fourth column of every row.
template <class Work>
void launch_on_rows(const Work& work, std::int64_t rows, std::int64_t width, bool aligned, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>((rows + kRowWarps - 1) / kRowWarps),
                  static_cast<unsigned>((width + kRowPart - 1) / kRowPart));
  dispatch_bool(aligned, [&]<bool a>() {
    launch(on_rows<a, Work>, {.grid = grid, .block = kRowWarps * 32, .stream = stream}, work, rows, width);
  });
}

}  // namespace vitrail::cuda
