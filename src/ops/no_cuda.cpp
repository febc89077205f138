// Stands in for ops/cuda in builds without CUDA.

#include "ops/exponential_rate.hpp"
#include "ops/ops.hpp"

namespace vitrail {

// A build without CUDA has no device that it could be made for: make_cuda_device says so first.
std::unique_ptr<Ops> make_cuda_ops(Device&, Precision) {
  fail(ExitCode::usage, {"this build has no CUDA back end", "it was configured without VITRAIL_CUDA",
                         "Use --backend cpu, or build with -DVITRAIL_CUDA=ON (Spack: vitrail +cuda)"});
}

double exponentials_per_second(Device& gpu) {
  fail(ExitCode::other,
       {text("exponentials on the device '", gpu.description(), "'"), "this build has no GPUs", "This is a bug"});
}

}  // namespace vitrail
