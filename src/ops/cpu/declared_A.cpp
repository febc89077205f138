#include "base/error.hpp"
#include "ops/cpu/cpu_ops.hpp"

namespace vitrail::cpu {
void CpuOps::run(const Dropout&) { fail(ExitCode::other, {"Dropout", "declared, not built yet", ""}); }
void CpuOps::run(const MeanTokensForward&) {
  fail(ExitCode::other, {"MeanTokensForward", "declared, not built yet", ""});
}
void CpuOps::run(const MeanTokensBackward&) {
  fail(ExitCode::other, {"MeanTokensBackward", "declared, not built yet", ""});
}
void CpuOps::run(const ToBf16&) { fail(ExitCode::other, {"ToBf16", "declared, not built yet", ""}); }
void CpuOps::run(const FromBf16&) { fail(ExitCode::other, {"FromBf16", "declared, not built yet", ""}); }
void CpuOps::run(const MixImages&) { fail(ExitCode::other, {"MixImages", "declared, not built yet", ""}); }
void CpuOps::run(const RunningAverage&) { fail(ExitCode::other, {"RunningAverage", "declared, not built yet", ""}); }
}  // namespace vitrail::cpu
