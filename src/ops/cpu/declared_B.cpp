#include "base/error.hpp"
#include "ops/cpu/cpu_ops.hpp"

namespace vitrail::cpu {
void CpuOps::run(const RouteAsGiven&) { fail(ExitCode::other, {"RouteAsGiven", "declared, not built yet", ""}); }
void CpuOps::run(const RouteExpertsChoice&) {
  fail(ExitCode::other, {"RouteExpertsChoice", "declared, not built yet", ""});
}
void CpuOps::run(const ShuffleExperts&) { fail(ExitCode::other, {"ShuffleExperts", "declared, not built yet", ""}); }
void CpuOps::run(const NormalizeGatesForward&) {
  fail(ExitCode::other, {"NormalizeGatesForward", "declared, not built yet", ""});
}
void CpuOps::run(const NormalizeGatesBackward&) {
  fail(ExitCode::other, {"NormalizeGatesBackward", "declared, not built yet", ""});
}
void CpuOps::run(const SoftRouterForward&) {
  fail(ExitCode::other, {"SoftRouterForward", "declared, not built yet", ""});
}
void CpuOps::run(const SoftRouterBackward&) {
  fail(ExitCode::other, {"SoftRouterBackward", "declared, not built yet", ""});
}
void CpuOps::run(const MixTokensForward&) {
  fail(ExitCode::other, {"MixTokensForward", "declared, not built yet", ""});
}
void CpuOps::run(const MixTokensBackward&) {
  fail(ExitCode::other, {"MixTokensBackward", "declared, not built yet", ""});
}
void CpuOps::run(const MixSlotsForward&) { fail(ExitCode::other, {"MixSlotsForward", "declared, not built yet", ""}); }
void CpuOps::run(const MixSlotsBackward&) {
  fail(ExitCode::other, {"MixSlotsBackward", "declared, not built yet", ""});
}
}  // namespace vitrail::cpu
