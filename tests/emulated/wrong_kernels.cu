// Kernels with faults that the emulation must see.

#include <stdexcept>

#include "gpu_intrinsics.hpp"
#include "tests/emulated/kernels.hpp"

namespace vitrail::emulated {

__global__ void divergent_barrier() {
  if (threadIdx.x < 40) {  // NOLINT(bugprone-branch-clone): that is the fault
    __syncthreads();
  } else {
    __syncthreads();
  }
}

__global__ void barrier_after_return() {
  if (threadIdx.x >= 48) return;
  __syncthreads();
}

__global__ void warp_sync_without_lane() {
  if (threadIdx.x != 3) __syncwarp();
  __syncthreads();
}

__global__ void shuffle_of_returned_lane() {
  if (threadIdx.x == 9) return;
  (void)__shfl_xor_sync(0xffffffffU, threadIdx.x, 1);
}

__global__ void shuffle_with_foreign_mask() { (void)__shfl_xor_sync(0x0000ffffU, threadIdx.x, 1); }

__global__ void shuffle_from_outside_mask(int* out) {
  if (threadIdx.x < 16) out[threadIdx.x] = __shfl_sync(0x0000ffffU, static_cast<int>(threadIdx.x), 20);
}

__global__ void write_behind_shared_memory(int offset) {
  auto& shared = shared_memory<Ring>();
  volatile int* values = shared.value;
  values[1024 + offset] = 7;
}

__global__ void throw_something() {
  if (threadIdx.x == 2) throw std::runtime_error("thrown by a lane");
}

__global__ void write_at(float* values, int index) { *(volatile float*)(values + index) = 1.0F; }

namespace {
__device__ __attribute__((noinline)) int descend(int depth) {
  volatile int frame[16];
  frame[depth % 16] = depth;
  if (depth == 0) {
    __syncthreads();
    if (threadIdx.x == 40) fail_kernel("failed deep inside", {"wrong_kernels.cu", 1});
    __syncthreads();
  }
  return depth > 0 ? descend(depth - 1) + frame[depth % 16] : frame[0];
}
}  // namespace

__global__ void fail_deep_inside(int depth) { (void)descend(depth); }

}  // namespace vitrail::emulated
