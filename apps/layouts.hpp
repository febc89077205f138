#pragma once
// vitrail-selftest layouts: the same training on many layouts ends in the same bits.

#include <cstdint>
#include <filesystem>
#include <string>

namespace vitrail {

struct LayoutsSettings {
  std::filesystem::path data;  ///< a packed split; empty: small images made for the test
  std::filesystem::path keep;  ///< where checkpoints and logs stay; empty: removed at the end
  std::string backend = "cpu";
  std::string mpirun = "mpirun";
  std::int64_t steps = 20;
};

/// Trains on every layout with vitrail-train (beside this program) under mpirun, prints SHA-256 of weights, optimizer
/// state and metrics of every run, and compares. ExitCode::done, or ExitCode::numbers when anything differs that must
/// not, or is equal that must differ.
int run_layouts(const LayoutsSettings& settings);

}  // namespace vitrail
