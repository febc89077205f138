#pragma once
// vitrail-selftest layouts: the same training on many layouts ends in the same bits.

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "apps/machine.hpp"

namespace vitrail {

struct LayoutsSettings {
  std::filesystem::path data;  ///< a packed split; empty: small images made for the test
  std::filesystem::path keep;  ///< where checkpoints and logs stay; empty: removed at the end
  std::string backend = "cpu";
  std::string mpirun = "mpirun";
  MachineOptions machine;  ///< of --backend cuda; passed on to the runs
  std::int64_t steps = 20;
  std::string precision = "f32";               ///< of the runs that all layouts are tried with
  std::int64_t most_ranks = 4;                 ///< layouts of more are left out; 1: mpirun is not needed
  std::vector<std::string> recipes = {"all"};  ///< names of further recipes; "all", "none"
};

/// Names for `recipes`.
std::vector<std::string> recipe_names();

/// Trains on every layout with vitrail-train (beside this program) under mpirun, prints SHA-256 of weights, optimizer
/// state and metrics of every run, and compares. With the cuda back end ranks share the GPU, through host memory.
/// ExitCode::done, or ExitCode::numbers when anything differs that must not, or is equal that must differ.
int run_layouts(const LayoutsSettings& settings);

}  // namespace vitrail
