#include "ops/cpu/whole_gemm.hpp"

#include <omp.h>
#include <oneapi/dnnl/dnnl.h>

#include "base/error.hpp"

namespace vitrail::cpu {

void whole_gemm(int threads, std::int64_t side, const float* a, const float* b, float* c) {
  const int before = omp_get_max_threads();
  omp_set_num_threads(threads);
  const dnnl_status_t rc = dnnl_sgemm('N', 'N', side, side, side, 1.0F, a, side, b, side, 0.0F, c, side);
  omp_set_num_threads(before);
  VITRAIL_EXPECT(rc == dnnl_success, ExitCode::other,
                 text("oneDNN failed with status ", static_cast<int>(rc), " on a product of side ", side),
                 "the arguments are wrong, or the library is", "");
}

}  // namespace vitrail::cpu
