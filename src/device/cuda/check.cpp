#include "device/cuda/check.hpp"

namespace vitrail::cuda {

void check(cudaError_t rc, std::source_location where) {
  if (rc == cudaSuccess) return;
  const bool memory = rc == cudaErrorMemoryAllocation;
  fail(memory ? ExitCode::usage : ExitCode::other,
       {text("CUDA failed with ", cudaGetErrorName(rc), " at ", where.file_name(), ":", where.line()),
        cudaGetErrorString(rc), memory ? "Use more GPUs, a smaller leaf or a smaller model" : ""});
}

}  // namespace vitrail::cuda
