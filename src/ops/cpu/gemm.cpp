#include "ops/cpu/gemm.hpp"

#include <oneapi/dnnl/dnnl.h>

#include "base/error.hpp"

namespace vitrail::cpu {

void gemm(std::int64_t m, std::int64_t n, std::int64_t k, Operand a, Operand b, Into into, float* c,
          std::int64_t stride) {
  if (m == 0 || n == 0) return;
  if (k == 0) {
    for (std::int64_t row = 0; row < m && into == Into::overwrite; ++row) std::fill_n(c + row * stride, n, 0.0F);
    return;
  }
  // The same C interface in oneDNN 2 and 3.
  const dnnl_status_t rc = dnnl_sgemm(a.transposed ? 'T' : 'N', b.transposed ? 'T' : 'N', m, n, k, 1.0F, a.data,
                                      a.stride, b.data, b.stride, into == Into::add ? 1.0F : 0.0F, c, stride);
  VITRAIL_EXPECT(rc == dnnl_success, rc == dnnl_out_of_memory ? ExitCode::usage : ExitCode::other,
                 text("oneDNN failed with status ", static_cast<int>(rc), " on a product ", m, " x ", n, " x ", k),
                 rc == dnnl_out_of_memory ? "not enough memory" : "the arguments are wrong, or the library is",
                 rc == dnnl_out_of_memory ? "Try fewer leaves per pass" : "This is a bug");
}

}  // namespace vitrail::cpu
