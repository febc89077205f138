#pragma once
// vitrail-doctor: environment variables of Slurm, Open MPI, OpenMP, CUDA, NCCL and HDF5 that hurt.

#include <map>
#include <string>
#include <vector>

#include "apps/doctor.hpp"

namespace vitrail {

using Environment = std::map<std::string, std::string>;

/// All variables of this process.
Environment environment_of_process();

/// What the variables are judged with.
struct Surroundings {
  int ranks = 1;          ///< of the job
  int ranks_of_node = 1;  ///< of this rank's
  int cores = 1;          ///< that this rank may use
  bool crowded = false;   ///< more ranks on its node than cores
};

/// Warnings alone; an ok that says what the launcher told when there are none.
Findings judge_environment(const Environment& environment, const Surroundings& around);

}  // namespace vitrail
