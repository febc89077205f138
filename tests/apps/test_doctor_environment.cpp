#include <gtest/gtest.h>

#include "apps/doctor_environment.hpp"

namespace vitrail {
namespace {

/// Names of the variables that are warned of, in their order; "ok" when none is.
std::string warned_of(const Environment& environment, const Surroundings& around = {}) {
  std::string names;
  for (const Finding& one : judge_environment(environment, around)) {
    EXPECT_NE(one.health, Health::bad);
    names += (names.empty() ? "" : " ") + (one.health == Health::ok ? "ok" : one.said.substr(0, one.said.find('=')));
  }
  return names;
}

TEST(DoctorEnvironment, ReadsThatOfThisProcess) { EXPECT_TRUE(environment_of_process().contains("PATH")); }

TEST(DoctorEnvironment, IsWellWithoutAnything) { EXPECT_EQ(warned_of({}), "ok"); }

TEST(DoctorEnvironment, NamesTheSlurmJob) {
  const Findings found = judge_environment({{"SLURM_JOB_ID", "42"}, {"SLURM_JOB_NUM_NODES", "2"}}, {});
  ASSERT_EQ(found.size(), 1);
  EXPECT_EQ(found[0].said, "Slurm job 42, nodes 2; nothing set that hurts");
}

TEST(DoctorEnvironment, WarnsOfOpenMpiWithoutSharedMemory) {
  const Surroundings two{.ranks = 2, .ranks_of_node = 2, .cores = 4, .crowded = false};
  EXPECT_EQ(warned_of({{"OMPI_MCA_btl", "self,tcp"}}, two), "OMPI_MCA_btl");
  EXPECT_EQ(warned_of({{"OMPI_MCA_btl", "^vader"}}, two), "OMPI_MCA_btl");
  EXPECT_EQ(warned_of({{"OMPI_MCA_btl", "self,vader,tcp"}}, two), "ok");
  EXPECT_EQ(warned_of({{"OMPI_MCA_btl", "^openib"}}, two), "ok");
  EXPECT_EQ(warned_of({{"OMPI_MCA_btl", "self,tcp"}}), "ok");  // one rank on its node
  EXPECT_EQ(warned_of({{"OMPI_MCA_btl_vader_single_copy_mechanism", "none"}}, two),
            "OMPI_MCA_btl_vader_single_copy_mechanism");
}

TEST(DoctorEnvironment, WarnsOfWaitingThatTakesCoresFromOthers) {
  const Surroundings crowded{.ranks = 4, .ranks_of_node = 4, .cores = 2, .crowded = true};
  EXPECT_EQ(warned_of({{"OMP_WAIT_POLICY", "ACTIVE"}}, crowded), "OMP_WAIT_POLICY");
  EXPECT_EQ(warned_of({{"OMP_WAIT_POLICY", "ACTIVE"}}), "ok");
  EXPECT_EQ(warned_of({{"OMPI_MCA_mpi_yield_when_idle", "0"}}, crowded), "OMPI_MCA_mpi_yield_when_idle");
  EXPECT_EQ(warned_of({{"OMPI_MCA_mpi_yield_when_idle", "1"}}, crowded), "ok");
  EXPECT_EQ(warned_of({{"OMP_PROC_BIND", "close"}}, crowded), "OMP_PROC_BIND");
  EXPECT_EQ(warned_of({{"OMP_PROC_BIND", "false"}}, crowded), "ok");
}

TEST(DoctorEnvironment, WarnsOfMoreThreadsThanCores) {
  EXPECT_EQ(warned_of({{"OMP_NUM_THREADS", "4"}}, {.cores = 2}), "OMP_NUM_THREADS");
  EXPECT_EQ(warned_of({{"OMP_NUM_THREADS", "2"}}, {.cores = 2}), "ok");
}

TEST(DoctorEnvironment, WarnsOfPinningThatIsTheSameForAllRanks) {
  const Surroundings two{.ranks = 2, .ranks_of_node = 2, .cores = 4, .crowded = false};
  EXPECT_EQ(warned_of({{"GOMP_CPU_AFFINITY", "0-3"}}, two), "GOMP_CPU_AFFINITY");
  EXPECT_EQ(warned_of({{"GOMP_CPU_AFFINITY", "0-3"}}), "ok");
}

TEST(DoctorEnvironment, WarnsOfCoresThatSrunDidNotGive) {
  EXPECT_EQ(warned_of({{"SLURM_CPUS_PER_TASK", "8"}}, {.cores = 1}), "SLURM_CPUS_PER_TASK");
  EXPECT_EQ(warned_of({{"SLURM_CPUS_PER_TASK", "8"}}, {.cores = 8}), "ok");
}

TEST(DoctorEnvironment, WarnsOfTasksThatAreNotRanks) {
  const Surroundings four{.ranks = 4, .ranks_of_node = 4, .cores = 8, .crowded = false};
  EXPECT_EQ(warned_of({{"SLURM_STEP_NUM_TASKS", "8"}}, four), "SLURM_STEP_NUM_TASKS");
  // mpirun inside of a step starts its own.
  EXPECT_EQ(warned_of({{"SLURM_STEP_NUM_TASKS", "8"}, {"OMPI_COMM_WORLD_SIZE", "4"}}, four), "ok");
}

TEST(DoctorEnvironment, WarnsOfHiddenAndHinderedGpus) {
  EXPECT_EQ(warned_of({{"CUDA_VISIBLE_DEVICES", ""}}), "CUDA_VISIBLE_DEVICES");
  EXPECT_EQ(warned_of({{"CUDA_VISIBLE_DEVICES", "0,1"}}), "ok");
  EXPECT_EQ(warned_of({{"CUDA_LAUNCH_BLOCKING", "1"}, {"NCCL_P2P_DISABLE", "1"}, {"NCCL_DEBUG", "INFO"}}),
            "CUDA_LAUNCH_BLOCKING NCCL_P2P_DISABLE NCCL_DEBUG");
}

TEST(DoctorEnvironment, WarnsOfOtherPeoplesLibraries) {
  EXPECT_EQ(warned_of({{"LD_PRELOAD", "/lib/x.so"}}), "LD_PRELOAD");
  EXPECT_EQ(warned_of({{"MALLOC_CHECK_", "3"}}), "MALLOC_CHECK_");
}

}  // namespace
}  // namespace vitrail
