// Stands in for device/cuda in builds without CUDA.

#include "device/device.hpp"

namespace vitrail {

std::unique_ptr<Device> make_cuda_device(const CudaOptions&) {
  fail(ExitCode::usage, {"this build has no CUDA back end", "it was configured without VITRAIL_CUDA",
                         "Use --backend cpu, or build with -DVITRAIL_CUDA=ON (Spack: vitrail +cuda)"});
}

}  // namespace vitrail
