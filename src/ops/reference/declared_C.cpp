#include <complex>

#include "base/error.hpp"
#include "ops/reference/reference.hpp"

namespace vitrail::reference {
template <class T>
void sgd_step(const SgdStep&) {
  fail(ExitCode::other, {"SgdStep", "declared, not built yet", ""});
}
VITRAIL_REFERENCE_VERB(sgd_step, SgdStep)
template <class T>
void adafactor_step(const AdafactorStep&) {
  fail(ExitCode::other, {"AdafactorStep", "declared, not built yet", ""});
}
VITRAIL_REFERENCE_VERB(adafactor_step, AdafactorStep)
}  // namespace vitrail::reference
