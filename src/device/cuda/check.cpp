#include "device/cuda/check.hpp"

#include <cstdlib>
#include <string_view>

namespace vitrail::cuda {

namespace {

// Kernels run later than they are started, so a failing one is noticed by some later call.
bool of_an_earlier_kernel(cudaError_t rc) {
  return rc == cudaErrorIllegalAddress || rc == cudaErrorMisalignedAddress || rc == cudaErrorLaunchFailure ||
         rc == cudaErrorLaunchTimeout;
}

}  // namespace

void check(cudaError_t rc, std::source_location where) {
  if (rc == cudaSuccess) return;
  std::string_view file = where.file_name();
  file.remove_prefix(file.rfind('/') + 1);  // npos + 1 is 0
  const std::string said = text("CUDA failed with ", cudaGetErrorName(rc), " [", cudaGetErrorString(rc), "]");
  const std::string place = text("at ", file, ":", where.line());
  if (rc == cudaErrorMemoryAllocation) {
    fail(ExitCode::usage, {said, place, "Use more GPUs, fewer leaves per pass, a smaller leaf or a smaller model"},
         where);
  }
  if (rc == cudaErrorNoKernelImageForDevice) {
    fail(ExitCode::usage,
         {said, text("this build has no code for this GPU; ", place),
          "Build with -DCMAKE_CUDA_ARCHITECTURES=80;90;100, or the compute capability of this GPU (Spack: cuda_arch)"},
         where);
  }
  if (of_an_earlier_kernel(rc)) {
    if (launches_block()) fail(ExitCode::other, {said, place, "compute-sanitizer names the access"}, where);
    fail(ExitCode::other,
         {said, text("seen ", place, ", but an earlier kernel may have done it"),
          "Run again with CUDA_LAUNCH_BLOCKING=1, which names the verb; compute-sanitizer names the access", true},
         where);
  }
  fail(ExitCode::other, {said, place, ""}, where);
}

bool launches_block() {
  const char* value = std::getenv("CUDA_LAUNCH_BLOCKING");
  return value != nullptr && std::string_view(value) != "0" && *value != '\0';
}

}  // namespace vitrail::cuda
