#include "ops/cpu/whole_gemm.hpp"

#include <oneapi/dnnl/dnnl.h>

#include "base/error.hpp"
#include "ops/cpu/elementwise_kernels.hpp"
#include "ops/cpu/parallel.hpp"

namespace vitrail::cpu {

WholeGemm::WholeGemm(int threads, std::int64_t side, Precision precision, const float* a, const float* b)
    : threads_(threads), side_(side), a_(a), b_(b) {
  if (precision == Precision::f32) return;
  const std::int64_t n = side * side;
  if (multiplies_bf16()) product_.emplace(Bf16Shape{side, side, side, false, false, false}, threads);
  const std::int64_t matrix = aligned_floats(product_ ? (n + 1) / 2 : n);
  float* const first = rounded_.floats(2 * matrix + (product_ ? product_->scratch() : 0));
  float* const second = first + matrix;
  if (product_) {
    to_bf16_run(a, reinterpret_cast<Bf16*>(first), n);
    to_bf16_run(b, reinterpret_cast<Bf16*>(second), n);
  } else {
    round_run(a, first, n);
    round_run(b, second, n);
  }
  a_ = first;
  b_ = second;
  scratch_ = second + matrix;
}

void WholeGemm::multiply(float* c) const {
  const OmpThreads team(threads_);
  if (product_) return (*product_)(reinterpret_cast<const Bf16*>(a_), reinterpret_cast<const Bf16*>(b_), c, scratch_);
  const dnnl_status_t rc = dnnl_sgemm('N', 'N', side_, side_, side_, 1.0F, a_, side_, b_, side_, 0.0F, c, side_);
  VITRAIL_EXPECT(rc == dnnl_success, ExitCode::other,
                 text("oneDNN failed with status ", static_cast<int>(rc), " on a product of side ", side_),
                 "the arguments are wrong, or the library is", "");
}

}  // namespace vitrail::cpu
