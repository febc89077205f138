#include "apps/doctor_environment.hpp"

#include <cstdlib>
#include <string_view>

#include <unistd.h>

namespace vitrail {

namespace {

constexpr const char* kCheck = "environment";

/// A variable's value; empty if it is not set.
std::string value_of(const Environment& environment, const std::string& name) {
  const auto found = environment.find(name);
  return found == environment.end() ? "" : found->second;
}

/// A variable as a number; 0 if it is none.
long number_of(const Environment& environment, const std::string& name) {
  return std::strtol(value_of(environment, name).c_str(), nullptr, 10);
}

bool is_on(const std::string& value) { return value == "1" || value == "true" || value == "TRUE" || value == "yes"; }

/// Is `word` in a list such as "self,tcp"?
bool lists(const std::string& list, std::string_view word) {
  return ("," + list + ",").find("," + std::string(word) + ",") != std::string::npos;
}

class Judge {
 public:
  Judge(const Environment& environment, const Surroundings& around) : environment_(environment), around_(around) {}

  void open_mpi() {
    const std::string carriers = value_of(environment_, "OMPI_MCA_btl");
    const bool left_out =
        !carriers.empty() &&
        (carriers.front() == '^' ? lists(carriers.substr(1), "vader") || lists(carriers.substr(1), "sm")
                                 : !lists(carriers, "vader") && !lists(carriers, "sm"));
    if (left_out && around_.ranks_of_node > 1) {
      say("OMPI_MCA_btl", "Ranks of a node exchange through sockets, not through shared memory: unset it");
    }
    if (value_of(environment_, "OMPI_MCA_btl_vader_single_copy_mechanism") == "none" && around_.ranks_of_node > 1) {
      say("OMPI_MCA_btl_vader_single_copy_mechanism",
          "Ranks of a node copy every exchange twice; outside of containers that forbid ptrace, unset it");
    }
    const std::string yields = value_of(environment_, "OMPI_MCA_mpi_yield_when_idle");
    if (around_.crowded && !yields.empty() && !is_on(yields)) {
      say("OMPI_MCA_mpi_yield_when_idle", "More ranks than cores, and waiting ranks keep theirs: set it to 1");
    }
    if (number_of(environment_, "OMPI_MCA_mpi_abort_delay") < 0) {
      say("OMPI_MCA_mpi_abort_delay", "A failing rank would wait for ever instead of ending the job: unset it");
    }
  }

  void openmp() {
    const long threads = number_of(environment_, "OMP_NUM_THREADS");
    if (threads > around_.cores) {
      say("OMP_NUM_THREADS", text("A rank may use ", around_.cores, around_.cores == 1 ? " core" : " cores",
                                  ": set it and --threads to that"));
    }
    const std::string wait = value_of(environment_, "OMP_WAIT_POLICY");
    if ((wait == "active" || wait == "ACTIVE") && around_.crowded) {
      say("OMP_WAIT_POLICY", "Waiting threads keep the cores that others need: set it to passive");
    }
    const std::string bind = value_of(environment_, "OMP_PROC_BIND");
    const bool binds = !bind.empty() && bind != "false" && bind != "FALSE";
    for (const char* name : {"GOMP_CPU_AFFINITY", "KMP_AFFINITY"}) {
      if (!value_of(environment_, name).empty() && around_.ranks_of_node > 1) {
        say(name, "It pins the threads of every rank to the same cores: unset it, and let the launcher pin");
      }
    }
    if (binds && around_.crowded) {
      say("OMP_PROC_BIND", "Where ranks share cores it pins their threads on top of each other: set it to false");
    }
  }

  void slurm() {
    const long tasks = number_of(environment_, "SLURM_STEP_NUM_TASKS");
    if (tasks > 1 && around_.ranks > 1 && tasks != around_.ranks &&
        value_of(environment_, "OMPI_COMM_WORLD_SIZE").empty()) {
      say("SLURM_STEP_NUM_TASKS", text("The world has ", around_.ranks, " ranks. srun --mpi=pmix connects all tasks"));
    }
    const long cores = number_of(environment_, "SLURM_CPUS_PER_TASK");
    if (cores > around_.cores) {
      say("SLURM_CPUS_PER_TASK",
          text("A rank may use ", around_.cores, around_.cores == 1 ? " core" : " cores",
               ". srun no longer inherits it: export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK in the job script"));
    }
  }

  void gpus() {
    const auto visible = environment_.find("CUDA_VISIBLE_DEVICES");
    if (visible != environment_.end() && (visible->second.empty() || visible->second == "-1")) {
      say("CUDA_VISIBLE_DEVICES", "It hides every GPU: unset it, or ask for GPUs (srun --gpus-per-task=1)");
    }
    if (is_on(value_of(environment_, "CUDA_LAUNCH_BLOCKING"))) {
      say("CUDA_LAUNCH_BLOCKING", "Every kernel waits for the one before: unset it");
    }
    if (is_on(value_of(environment_, "NCCL_P2P_DISABLE"))) {
      say("NCCL_P2P_DISABLE", "GPUs of a node exchange through host memory: unset it");
    }
    const std::string debug = value_of(environment_, "NCCL_DEBUG");
    if (debug == "TRACE" || debug == "INFO") say("NCCL_DEBUG", "NCCL fills the job's log: set it to WARN");
  }

  void others() {
    if (!value_of(environment_, "MALLOC_CHECK_").empty()) say("MALLOC_CHECK_", "It slows every allocation: unset it");
    if (!value_of(environment_, "LD_PRELOAD").empty()) {
      say("LD_PRELOAD", "What it loads replaces parts of libraries: unset it unless you mean it");
    }
  }

  Findings findings;

 private:
  void say(const std::string& name, const std::string& advice) {
    findings.push_back(warn(kCheck, text(name, "=", value_of(environment_, name)), advice));
  }

  const Environment& environment_;
  const Surroundings& around_;
};

/// What the launcher told: "Slurm job 42, step 0, 2 nodes".
std::string launcher_text(const Environment& environment) {
  const std::string job = value_of(environment, "SLURM_JOB_ID");
  if (job.empty()) return "no Slurm job, and nothing set that hurts";
  std::string said = text("Slurm job ", job);
  for (const auto& [name, title] :
       {std::pair{"SLURM_STEP_ID", ", step "}, std::pair{"SLURM_JOB_NUM_NODES", ", nodes "},
        std::pair{"SLURM_JOB_PARTITION", ", partition "}, std::pair{"SLURM_RESTART_COUNT", ", restart "}}) {
    if (const std::string value = value_of(environment, name); !value.empty()) said += title + value;
  }
  return said + "; nothing set that hurts";
}

}  // namespace

Environment environment_of_process() {
  Environment environment;
  for (char** at = environ; at != nullptr && *at != nullptr; ++at) {
    const std::string line = *at;
    const std::size_t end = line.find('=');
    if (end != std::string::npos) environment[line.substr(0, end)] = line.substr(end + 1);
  }
  return environment;
}

Findings judge_environment(const Environment& environment, const Surroundings& around) {
  Judge judge(environment, around);
  judge.slurm();
  judge.open_mpi();
  judge.openmp();
  judge.gpus();
  judge.others();
  if (judge.findings.empty()) judge.findings.push_back(ok(kCheck, launcher_text(environment)));
  return judge.findings;
}

}  // namespace vitrail
