#pragma once
// Kernels for the tests of the emulation, right ones and wrong ones.

#include <cstdint>

#include "cuda_bf16.h"
#include "cuda_runtime.h"

namespace vitrail::emulated {

// --- reductions ------------------------------------------------------------------------------------------------------
/// out[warp] = sum of the warp's 32 values, by shuffles.
__global__ void warp_sums(const float* in, float* out);

struct BlockSum {
  float of_warp[32];
};
/// out[block] = sum of the block's values, through shared memory.
__global__ void block_sums(const float* in, float* out);
/// The same without the barrier between the warps' writes and their reading.
__global__ void block_sums_without_barrier(const float* in, float* out);

// --- elementwise -----------------------------------------------------------------------------------------------------
__global__ void add(float* values, float increment, int count);
/// values[i] = x + 10 y + 100 z of the thread, and 1000 times that of the block.
__global__ void write_indices(int* values);
/// Shuffles and votes of every kind; out: [8, 32].
__global__ void exchange(int* out);
/// out[lane] = sum over the `width` lanes around it, one mask for each group of lanes.
__global__ void sum_parts(const int* in, int* out, int width);
/// Shared memory passed round: lane i reads what its neighbour wrote, `rounds` times.
struct Ring {
  int value[1024];
};
__global__ void pass_round(int* values, int rounds);
__global__ void count_threads(int* counts);

// --- matrices --------------------------------------------------------------------------------------------------------
struct Fragments {
  __nv_bfloat16 a[16][24];  ///< 16 x 16, rows of 48 bytes
  __nv_bfloat16 b[16][16];  ///< 16 x 8, rows of 32 bytes
};
/// d (16 x 8) += a (16 x 16) b (16 x 8), all row-major, each lane gathering its fragments by the lane map.
__global__ void multiply(float* d, const __nv_bfloat16* a, const __nv_bfloat16* b);
/// The same with fragments loaded by ldmatrix (b transposed on the way).
__global__ void multiply_loaded(float* d, const __nv_bfloat16* a, const __nv_bfloat16* b);
/// What ldmatrix gives of matrices whose element is its own index (8 x 8 each): out[form][register][lane].
struct FourMatrices {
  std::uint16_t element[4][8][8];
};
__global__ void load_matrices(std::uint32_t* out);
__global__ void load_unaligned(std::uint32_t* out);

// --- asynchronous copies ---------------------------------------------------------------------------------------------
struct Stage {
  alignas(16) float value[3][32][4];
};
/// out[0] before the wait, out[1] after waiting for the first group, out[2] after all; each [3][32][4]; the copies of
/// stage 2 have 4 valid bytes.
__global__ void copy_in_groups(const float* in, float* out);
__global__ void copy_to_nowhere(const float* in, float* out);

// --- wrong ones ------------------------------------------------------------------------------------------------------
__global__ void divergent_barrier();
__global__ void barrier_after_return();
__global__ void warp_sync_without_lane();
__global__ void shuffle_of_returned_lane();
__global__ void shuffle_with_foreign_mask();
__global__ void shuffle_from_outside_mask(int* out);
__global__ void write_behind_shared_memory(int offset);
__global__ void throw_something();
__global__ void write_at(float* values, int index);
/// Deep enough to be abandoned with red zones on the stack.
__global__ void fail_deep_inside(int depth);

}  // namespace vitrail::emulated
