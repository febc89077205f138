#pragma once
// `vitrail-selftest golden`: runs files of the schema "vitrail-golden-1" (results of the original implementation,
// tests/golden/README.md) and compares what comes out.

#include <filesystem>
#include <vector>

#include "apps/golden_report.hpp"
#include "device/device.hpp"
#include "ops/ops.hpp"

namespace vitrail {

/// What the files are run on.
struct GoldenBackend {
  Ops& ops;
  Device& device;
  /// Rounding exceeds the margins of the files' routing decisions (bf16): models are given the choices of the file, and
  /// the share of equal decisions without that is reported.
  bool force_routing = false;
};

/// 1e-9 for back ends that compute in double; 1e-5, 1e-4 and 1e-4 for f32; 2e-2, 5e-2 and 5e-2 for bf16 products.
GoldenTolerances golden_tolerances(const Ops& ops);

/// Runs every file, one after the other; a file that cannot be read, or that needs what is not built, does not stop the
/// others. The verdict is in report.exit_code().
void run_golden(const GoldenBackend& backend, const std::vector<std::filesystem::path>& files, GoldenReport& report);

}  // namespace vitrail
