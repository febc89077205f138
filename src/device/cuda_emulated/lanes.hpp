#pragma once
// What a running kernel sees of the emulation: its place in the grid and the collectives of its warp and block.

#include <cstddef>
#include <cstdint>
#include <string>

#include "vector_types.h"

// Set by the scheduler whenever it switches to another lane.
extern uint3 threadIdx;
extern uint3 blockIdx;
extern dim3 blockDim;
extern dim3 gridDim;
constexpr int warpSize = 32;

namespace vitrail::emulated {

/// A line of a kernel, for reports.
struct Site {
  const char* file;
  int line;
  friend bool operator==(const Site& a, const Site& b) noexcept;
};

/// What all lanes of a mask do together. `complete` runs once, when the last of them has arrived, with the arguments
/// that each lane brought (null for lanes outside the mask).
struct Collective {
  const char* name;
  void (*complete)(void* const (&arguments)[32], std::uint32_t mask);
};

/// Waits until every lane of `mask` has come here with the same mask and collective, then completes it.
void warp_collective(const Collective& collective, std::uint32_t mask, void* arguments, Site site);

/// __syncthreads: waits for all lanes of the block. Returns the number of lanes whose predicate was true.
int block_barrier(bool predicate, Site site);

/// The block's shared memory; a failure if the launch gave less than `bytes`.
void* block_shared_memory(std::size_t bytes, std::size_t alignment);
/// Whether [address, address + bytes) lies in the block's shared memory.
bool is_shared_memory(const void* address, std::size_t bytes);

/// cp.async: poisons `bytes` at `shared`, to be copied from `global` (the first `valid`, then zeros) at the wait.
void start_copy(void* shared, const void* global, std::size_t bytes, std::size_t valid);
void commit_copies();
/// Completes all committed groups of this lane but the newest `groups_left`.
void wait_for_copies(int groups_left);

/// Ends the running kernel: it failed with this text (cudaErrorLaunchFailure).
[[noreturn]] void fail_kernel(const std::string& problem, Site site);

}  // namespace vitrail::emulated
