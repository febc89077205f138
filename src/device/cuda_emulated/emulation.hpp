#pragma once
// Switches and views of the emulation, for tests.

#include <cstdint>
#include <string>

namespace vitrail::emulated {

enum class LaneOrder { alternate, ascending, descending };

/// What is simulated.
struct Simulation {
  int devices = 1;
  int major = 9, minor = 0;
  std::int64_t memory_mib = 16384;
  LaneOrder lanes = LaneOrder::alternate;  ///< of lanes, warps, blocks and independent nodes of a graph
  bool has_fused_epilogues = true;         ///< false: cuBLASLt finds no algorithm but for the default epilogue
  std::int32_t largest_batch = 65536;      ///< that cuBLASLt's algorithms take
  std::string failing_kernel;              ///< part of the names of the kernels that are counted; empty: all
  std::int64_t failing_launch = 0;         ///< which of them fails when it runs, from 1; 0: none
  bool launch_blocking = false;            ///< a launch returns when the kernel is done
};
/// Of this process; at first what the environment says.
Simulation& simulation();
/// VITRAIL_EMULATED_DEVICES, VITRAIL_EMULATED_CAPABILITY ("90"), VITRAIL_EMULATED_MEMORY_MIB, VITRAIL_EMULATED_LANES
/// (alternate, ascending, descending), VITRAIL_EMULATED_FAIL_LAUNCH ("1000", "layernorm:20"), CUDA_LAUNCH_BLOCKING.
Simulation simulation_of_environment();

/// What went wrong in the kernel that failed (its error is sticky), or nothing.
std::string kernel_failure();
/// Ends the sticky error, so that the next test can go on; what was queued is gone.
void forget_failure();

}  // namespace vitrail::emulated
