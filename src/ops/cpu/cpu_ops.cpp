#include "ops/cpu/cpu_ops.hpp"

#include "base/error.hpp"
#include "ops/cpu/weight_gradient.hpp"

namespace vitrail {

namespace cpu {
CpuOps::CpuOps(int threads, Precision precision) : threads_(threads), precision_(precision), gemm_(precision) {
  VITRAIL_EXPECT(threads >= 1, ExitCode::usage, text("the cpu back end was asked to use ", threads, " threads"),
                 "it needs at least one", "Try --threads 1");
}
// Small weights' gradients are sums of partial ones, made when all are there.
bool CpuOps::updates_early(std::int64_t in, std::int64_t out) const noexcept { return in * out > kSmallWeights; }
}  // namespace cpu

std::unique_ptr<Ops> make_cpu_ops(int threads, Precision precision) {
  return std::make_unique<cpu::CpuOps>(threads, precision);
}

}  // namespace vitrail
