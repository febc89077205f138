#include "apps/golden.hpp"

#include <algorithm>
#include <array>
#include <string_view>

#include "apps/golden_config.hpp"
#include "apps/golden_kinds.hpp"

namespace vitrail {

namespace {

void run_file(const GoldenBackend& backend, const std::filesystem::path& path, GoldenReport& report) {
  const GoldenFile file(path);
  report.headline(text(path.filename().string(), ": ", file.kind(), ", ", backend.ops.name()));
  const std::array<std::string_view, 9> kinds{"model",      "router",  "optimizer", "schedule",  "mixup",
                                              "trajectory", "fewshot", "posembed",  "checkpoint"};
  if (std::find(kinds.begin(), kinds.end(), file.kind()) == kinds.end()) throw Unsupported("kind " + file.kind());
  if (file.kind() == "checkpoint") return run_golden_checkpoint(file, report);  // "as stored"
  if (file.precision() != "float64") throw Unsupported("precision " + file.precision());
  if (file.kind() == "model") return run_golden_model(backend, file, report);
  if (file.kind() == "router") return run_golden_router(backend, file, report);
  if (file.kind() == "optimizer") return run_golden_optimizer(backend, file, report);
  if (file.kind() == "schedule") return run_golden_schedule(file, report);
  if (file.kind() == "mixup") return run_golden_mixup(backend, file, report);
  if (file.kind() == "fewshot") return run_golden_fewshot(file, report);
  if (file.kind() == "posembed") return run_golden_posembed(file, report);
  return run_golden_trajectory(backend, file, report);
}

}  // namespace

GoldenTolerances golden_tolerances(const Ops& ops) {
  if (ops.real() == Dtype::f64) return {1e-9, 1e-9, 1e-9};
  if (ops.precision() == Precision::bf16) return {2e-2, 5e-2, 5e-2};
  return {1e-5, 1e-4, 1e-4};
}

void run_golden(const GoldenBackend& backend, const std::vector<std::filesystem::path>& files, GoldenReport& report) {
  for (const std::filesystem::path& path : files) {
    try {
      run_file(backend, path, report);
    } catch (const Unsupported& missing) {
      report.unsupported(missing.what());
    } catch (const Error& error) {
      // A configuration that our own model refuses is one that we do not have.
      if (error.code() == ExitCode::usage) {
        report.unsupported(error.what());
      } else if (error.code() == ExitCode::data) {
        report.unreadable(error.what());
      } else {
        report.failed(path.filename().string(), error.what());
      }
    }
  }
  report.summary();
}

}  // namespace vitrail
