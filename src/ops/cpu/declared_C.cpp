#include "base/error.hpp"
#include "ops/cpu/cpu_ops.hpp"

namespace vitrail::cpu {
void CpuOps::run(const SgdStep&) { fail(ExitCode::other, {"SgdStep", "declared, not built yet", ""}); }
void CpuOps::run(const AdafactorStep&) { fail(ExitCode::other, {"AdafactorStep", "declared, not built yet", ""}); }
}  // namespace vitrail::cpu
