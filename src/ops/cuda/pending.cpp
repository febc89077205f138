// Verbs whose kernels are not there yet.

#include "ops/cuda/cuda_ops.hpp"

namespace vitrail::cuda {

#define VITRAIL_PENDING(verb, Arguments)                                                                \
  __attribute__((weak)) void CudaOps::run(const Arguments&) {                                           \
    fail(ExitCode::other, {"the cuda back end has no " #verb " yet", "its kernel is not written", ""}); \
  }
VITRAIL_VERBS(VITRAIL_PENDING)
#undef VITRAIL_PENDING

}  // namespace vitrail::cuda
