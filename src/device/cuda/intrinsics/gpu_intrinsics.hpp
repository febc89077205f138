#pragma once
// The instructions of the GPU that CUDA C++ has no name for, one function each. The emulation's twin, with the same
// names and meaning, is device/cuda_emulated/gpu_intrinsics.hpp: a function added here is added there.

#include <cstddef>
#include <cstdint>

#include <cuda_runtime.h>

namespace vitrail {

/// The block's dynamic shared memory seen as one plain struct; .shared_bytes of the launch is its size.
template <class T>
__device__ __forceinline__ T& shared_memory() {
  static_assert(alignof(T) <= 128, "shared memory is aligned to 128 bytes");
  extern __shared__ __align__(128) unsigned char vitrail_shared_memory[];
  return *reinterpret_cast<T*>(vitrail_shared_memory);
}

/// d += a b, for the whole warp: a 16 x 16 and b 16 x 8 in bf16 (row.col), d 16 x 8 in f32. With g = lane / 4 and
/// t = lane % 4: a[0] = A[g][2t, 2t+1], a[1] = A[g+8][..], a[2] = A[g][2t+8, 2t+9], a[3] = A[g+8][2t+8, ..];
/// b[0] = B[2t, 2t+1][g], b[1] = B[2t+8, 2t+9][g]; d[0], d[1] = D[g][2t, 2t+1], d[2], d[3] = D[g+8][2t, 2t+1].
__device__ __forceinline__ void mma_m16n8k16(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/// The address of shared memory as PTX wants it: 32 bits of the shared window.
__device__ __forceinline__ std::uint32_t shared_address(const void* shared) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(shared));
}

/// Loads four 8 x 8 matrices of bf16; lane l gives the address (16-byte aligned, shared) of row l % 8 of matrix l / 8.
/// r[i] of lane l = elements 2 (l % 4) and the next of row l / 4 of matrix i.
__device__ __forceinline__ void ldmatrix_x4(std::uint32_t (&r)[4], const void* shared_row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(shared_row))
               : "memory");
}
/// The same, each matrix transposed: r[i] of lane l = elements l / 4 of rows 2 (l % 4) and the next.
__device__ __forceinline__ void ldmatrix_x4_trans(std::uint32_t (&r)[4], const void* shared_row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(shared_row))
               : "memory");
}
/// Two matrices; the addresses of lanes 0 to 15 count.
__device__ __forceinline__ void ldmatrix_x2(std::uint32_t (&r)[2], const void* shared_row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(shared_address(shared_row))
               : "memory");
}
__device__ __forceinline__ void ldmatrix_x2_trans(std::uint32_t (&r)[2], const void* shared_row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(shared_address(shared_row))
               : "memory");
}

/// Starts a copy of 16 bytes to shared memory: `valid_bytes` (0 to 16) from `global`, the rest zeros. Both aligned to
/// 16 bytes. The target holds nothing of use before the wait, and other lanes see it after a barrier behind the wait.
__device__ __forceinline__ void cp_async_16(void* shared, const void* global, int valid_bytes) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
               :
               : "r"(shared_address(shared)), "l"(__cvta_generic_to_global(global)), "r"(valid_bytes)
               : "memory");
}
/// Makes one group of this lane's copies since the last commit.
__device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
/// Waits until at most `groups_left` of this lane's newest groups are under way.
template <int groups_left>
__device__ __forceinline__ void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" : : "n"(groups_left) : "memory");
}

/// 2^x, as the hardware approximates it (ex2.approx: relative error 2^-22; results below 2^-126 may become 0).
__device__ __forceinline__ float exp2_approx(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

}  // namespace vitrail
