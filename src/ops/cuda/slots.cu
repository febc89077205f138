// What depends on where assignments went: maps between rows and assignments, gates of kept choices, counts.

#include <cstdint>

#include "device/cuda/launch.hpp"
#include "gpu_intrinsics.hpp"
#include "ops/cuda/cuda_ops.hpp"
#include "ops/cuda/stored.hpp"
#include "ops/cuda/token_lanes.hpp"

namespace vitrail::cuda {
namespace {

/// Element of this thread.
__device__ __forceinline__ std::int64_t thread_of_grid() { return TokenLane<1>().token; }

__global__ void __launch_bounds__(kTokenThreads) empty_rows(std::int32_t* source, std::int64_t rows) {
  if (thread_of_grid() < rows) source[thread_of_grid()] = -1;
}

/// Sizes as in the verb; no product of them exceeds 2^31.
struct PlaceAssignments {
  const std::int32_t* selected;
  const std::int32_t* slot;
  std::int32_t* source;
  std::int32_t* row;
  int assignments, leaves, groups, in_group, experts, slots, capacity;
};
__global__ void __launch_bounds__(kTokenThreads) place_assignments(PlaceAssignments a) {
  if (thread_of_grid() >= a.assignments) return;
  const int i = static_cast<int>(thread_of_grid());
  const int slot = a.slot[i];
  int row = -1;
  if (slot >= 0 && slot < a.capacity) {
    const int leaf = i / a.in_group / a.groups, group = i / a.in_group % a.groups;
    const int owner = a.selected[i] / a.experts, place = a.selected[i] % a.experts;
    row = ((owner * a.leaves + leaf) * a.experts + place) * a.slots + group * a.capacity + slot;
    a.source[row] = i;  // no other assignment has this slot
  }
  a.row[i] = row;
}

/// The gates of a token's kept choices, j ascending.
__device__ __forceinline__ float sum_of_kept(const float* gate, const std::int32_t* row, int choices) {
  float total = 0.0F;
  for (int j = 0; j < choices; ++j) total += row[j] < 0 ? 0.0F : gate[j];
  return total;
}

__global__ void __launch_bounds__(kTokenThreads)
    gates_over_sum(const float* gate, const std::int32_t* row, float* y, std::int64_t tokens, int choices) {
  if (thread_of_grid() >= tokens) return;
  const std::int64_t first = thread_of_grid() * choices;
  const float total = sum_of_kept(gate + first, row + first, choices);
  for (std::int64_t i = first; i < first + choices; ++i) y[i] = row[i] < 0 || total == 0.0F ? 0.0F : gate[i] / total;
}

/// dgate may be dy.
__global__ void __launch_bounds__(kTokenThreads)
    gates_over_sum_backward(const float* dy, const float* gate, const std::int32_t* row, const float* y, float* dgate,
                            std::int64_t tokens, int choices) {
  if (thread_of_grid() >= tokens) return;
  const std::int64_t first = thread_of_grid() * choices;
  const float total = sum_of_kept(gate + first, row + first, choices);
  float inner = 0.0F;
  for (std::int64_t i = first; i < first + choices; ++i) inner += row[i] < 0 ? 0.0F : dy[i] * y[i];
  for (std::int64_t i = first; i < first + choices; ++i)
    dgate[i] = row[i] < 0 || total == 0.0F ? 0.0F : (dy[i] - inner) / total;
}

struct Count {
  const std::int32_t* selected;
  const std::int32_t* slot;
  std::int64_t* assigned;
  std::int64_t* kept;
  std::int64_t* processed;
  std::int64_t tokens;
  std::int64_t capacity;
  int choices, experts;
};

struct WarpCounts {
  std::int64_t assigned[kTokenThreads / 32], kept[kTokenThreads / 32];
};

/// Of all threads of the block, for thread 0.
__device__ __forceinline__ std::int64_t sum_of_block(std::int64_t x, std::int64_t (&of_warp)[kTokenThreads / 32]) {
  x = sum_of<32>(x);
  if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = x;
  __syncthreads();
  std::int64_t total = 0;
  for (const std::int64_t one : of_warp) total += one;
  return total;
}

/// Block e counts the assignments of expert e; the last one the tokens that an expert works on.
__global__ void __launch_bounds__(kTokenThreads) count_of_expert(Count a) {
  auto& shared = shared_memory<WarpCounts>();
  const int expert = static_cast<int>(blockIdx.x);
  std::int64_t assigned = 0, kept = 0;
  if (expert < a.experts) {
    for (std::int64_t i = threadIdx.x; i < a.tokens * a.choices; i += kTokenThreads) {
      const std::int32_t slot = a.slot[i];
      const bool here = slot >= 0 && a.selected[i] == expert;
      assigned += here ? 1 : 0;
      kept += here && slot < a.capacity ? 1 : 0;
    }
  } else {
    for (std::int64_t token = threadIdx.x; token < a.tokens; token += kTokenThreads) {
      bool any = false;
      for (int j = 0; j < a.choices; ++j) {
        const std::int32_t slot = a.slot[token * a.choices + j];
        any = any || (slot >= 0 && slot < a.capacity);
      }
      kept += any ? 1 : 0;
    }
  }
  assigned = sum_of_block(assigned, shared.assigned);
  kept = sum_of_block(kept, shared.kept);
  if (threadIdx.x != 0) return;
  if (expert < a.experts) a.assigned[expert] = assigned;
  *(expert < a.experts ? a.kept + expert : a.processed) = kept;
}

}  // namespace

void CudaOps::run(const MapSlots& a) {
  const std::int64_t assignments = a.selected.elements(), rows = a.source.elements();
  auto* const source = data_of<std::int32_t>(a.source);
  launch(empty_rows, {.grid = token_blocks<1>(rows), .block = dim3(kTokenThreads), .stream = stream()}, source, rows);
  launch(place_assignments, {.grid = token_blocks<1>(assignments), .block = dim3(kTokenThreads), .stream = stream()},
         PlaceAssignments{
             data_of<std::int32_t>(a.selected), data_of<std::int32_t>(a.slot), source, data_of<std::int32_t>(a.row),
             static_cast<int>(assignments), static_cast<int>(a.selected.shape[0]),
             static_cast<int>(a.selected.shape[1]), static_cast<int>(a.selected.shape[2] * a.selected.shape[3]),
             static_cast<int>(a.source.shape[2]), static_cast<int>(a.source.shape[3]), static_cast<int>(a.capacity)});
}

void CudaOps::run(const NormalizeGatesForward& a) {
  const std::int64_t tokens = a.gate.shape[0];
  launch(gates_over_sum, {.grid = token_blocks<1>(tokens), .block = dim3(kTokenThreads), .stream = stream()},
         data_of<float>(a.gate), data_of<std::int32_t>(a.row), data_of<float>(a.y), tokens,
         static_cast<int>(a.gate.shape[1]));
}

void CudaOps::run(const NormalizeGatesBackward& a) {
  const std::int64_t tokens = a.gate.shape[0];
  launch(gates_over_sum_backward, {.grid = token_blocks<1>(tokens), .block = dim3(kTokenThreads), .stream = stream()},
         data_of<float>(a.dy), data_of<float>(a.gate), data_of<std::int32_t>(a.row), data_of<float>(a.y),
         data_of<float>(a.dgate), tokens, static_cast<int>(a.gate.shape[1]));
}

void CudaOps::run(const CountAssignments& a) {
  const std::int64_t experts = a.assigned.shape[0];
  launch(count_of_expert,
         {.grid = dim3(static_cast<unsigned>(experts + 1)),
          .block = dim3(kTokenThreads),
          .shared_bytes = sizeof(WarpCounts),
          .stream = stream()},
         Count{data_of<std::int32_t>(a.selected), data_of<std::int32_t>(a.slot), data_of<std::int64_t>(a.assigned),
               data_of<std::int64_t>(a.kept), data_of<std::int64_t>(a.processed), a.selected.shape[0], a.capacity,
               static_cast<int>(a.selected.shape[1]), static_cast<int>(experts)});
}

}  // namespace vitrail::cuda
