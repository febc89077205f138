#pragma once
// What the environment says about how this process was started.

#include <cstdint>
#include <string>

namespace vitrail {

struct Launch {
  std::string by;          ///< "Slurm", "mpirun", "a PMI launcher"; empty: by hand, or from a batch script
  std::int64_t tasks = 1;  ///< that were started together
};

/// Whether the launcher gave this process a way to the others: PMI or PMIx, which show in the environment.
bool launcher_connects_tasks();

/// mpirun inside of a Slurm step counts as mpirun. Shells and batch scripts inside an allocation count as nobody.
Launch launch_of_process();

}  // namespace vitrail
