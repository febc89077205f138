#pragma once
// vitrail-doctor: GPUs.

#include <cstdint>
#include <string>

#include "apps/doctor.hpp"

namespace vitrail {

struct GpuSeen {
  int gpus = 0;                  ///< that this process sees through this build
  bool has_files = false;        ///< /dev/nvidia* are there: the node has GPUs, whatever the build
  std::string description = {};  ///< of the one that this rank would use; empty when it cannot be used
  std::string problem = {};      ///< why not
  std::int64_t used = 0;         ///< bytes of its memory, by all processes
  std::int64_t total = 0;
};

/// Makes the GPU of rank number `local_rank` of its node ready for use, and lets go of it.
GpuSeen see_gpu(int local_rank);

Finding judge_gpu(const GpuSeen& seen, int ranks_of_node);

}  // namespace vitrail
