#include "comm/launcher.hpp"

#include <cstdlib>
#include <string_view>

#include <unistd.h>

namespace vitrail {

namespace {

bool in_environment(const char* name) { return std::getenv(name) != nullptr; }

// An environment variable as a number; 0 when it is absent.
std::int64_t number_in_environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? 0 : std::strtoll(value, nullptr, 10);
}

}  // namespace

Launch launch_of_process() {
  if (in_environment("OMPI_COMM_WORLD_SIZE")) return {"mpirun", number_in_environment("OMPI_COMM_WORLD_SIZE")};
  // Shells and batch scripts inside an allocation are steps, too, with the ids that Slurm reserves at the top of 32
  // bits; a single process started there by hand is none of our business.
  constexpr std::int64_t kReservedSteps = 0xFFFFFFF0;
  if (in_environment("SLURM_STEP_ID") && number_in_environment("SLURM_STEP_ID") < kReservedSteps) {
    const bool of_step = in_environment("SLURM_STEP_NUM_TASKS");
    return {"Slurm", number_in_environment(of_step ? "SLURM_STEP_NUM_TASKS" : "SLURM_NTASKS")};
  }
  if (in_environment("PMI_SIZE")) return {"a PMI launcher", number_in_environment("PMI_SIZE")};
  return {};
}

bool launcher_connects_tasks() {
  // PMI_RANK, PMI_FD, PMIX_RANK, PMIX_SERVER_URI2, PALS_RANKID (Cray), ...: each launcher has names of its own.
  for (char** variable = environ; *variable != nullptr; ++variable) {
    const std::string_view text(*variable);
    if (text.starts_with("PMI") || text.starts_with("PALS_")) return true;
  }
  return false;
}

}  // namespace vitrail
