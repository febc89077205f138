#pragma once
// The emulation's twin of device/cuda/intrinsics/gpu_intrinsics.hpp: the same functions with the same meaning. There
// each is one PTX instruction; here the lanes of a warp meet and one of them does the work of all, by the lane maps of
// the PTX manual (section "Warp-level matrix instructions").

#include <cmath>
#include <cstddef>
#include <cstdint>

#include "cuda_runtime.h"

namespace vitrail {

/// The block's dynamic shared memory seen as one plain struct; .shared_bytes of the launch is its size.
template <class T>
T& shared_memory() {
  static_assert(alignof(T) <= 128, "shared memory is aligned to 128 bytes");
  return *static_cast<T*>(emulated::block_shared_memory(sizeof(T), alignof(T)));
}

/// d += a b, for the whole warp: a 16 x 16 and b 16 x 8 in bf16 (row.col), d 16 x 8 in f32. With g = lane / 4 and
/// t = lane % 4: a[0] = A[g][2t, 2t+1], a[1] = A[g+8][..], a[2] = A[g][2t+8, 2t+9], a[3] = A[g+8][2t+8, ..];
/// b[0] = B[2t, 2t+1][g], b[1] = B[2t+8, 2t+9][g]; d[0], d[1] = D[g][2t, 2t+1], d[2], d[3] = D[g+8][2t, 2t+1].
void mma_m16n8k16(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2],
                  const char* file = __builtin_FILE(), int line = __builtin_LINE());

/// Loads four 8 x 8 matrices of bf16; lane l gives the address (16-byte aligned, shared) of row l % 8 of matrix l / 8.
/// r[i] of lane l = elements 2 (l % 4) and the next of row l / 4 of matrix i.
void ldmatrix_x4(std::uint32_t (&r)[4], const void* shared_row, const char* file = __builtin_FILE(),
                 int line = __builtin_LINE());
/// The same, each matrix transposed: r[i] of lane l = elements l / 4 of rows 2 (l % 4) and the next.
void ldmatrix_x4_trans(std::uint32_t (&r)[4], const void* shared_row, const char* file = __builtin_FILE(),
                       int line = __builtin_LINE());
/// Two matrices; the addresses of lanes 0 to 15 count.
void ldmatrix_x2(std::uint32_t (&r)[2], const void* shared_row, const char* file = __builtin_FILE(),
                 int line = __builtin_LINE());
void ldmatrix_x2_trans(std::uint32_t (&r)[2], const void* shared_row, const char* file = __builtin_FILE(),
                       int line = __builtin_LINE());

/// Starts a copy of 16 bytes to shared memory: `valid_bytes` (0 to 16) from `global`, the rest zeros. Both aligned to
/// 16 bytes. The target holds nothing of use before the wait, and other lanes see it after a barrier behind the wait.
void cp_async_16(void* shared, const void* global, int valid_bytes, const char* file = __builtin_FILE(),
                 int line = __builtin_LINE());
/// Makes one group of this lane's copies since the last commit.
inline void cp_async_commit() { emulated::commit_copies(); }
/// Waits until at most `groups_left` of this lane's newest groups are under way.
template <int groups_left>
void cp_async_wait() {
  emulated::wait_for_copies(groups_left);
}

/// 2^x, as the hardware approximates it (ex2.approx: relative error 2^-22; results below 2^-126 may become 0).
inline float exp2_approx(float x) { return std::exp2(x); }

}  // namespace vitrail
