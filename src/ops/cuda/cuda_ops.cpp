#include "ops/cuda/cuda_ops.hpp"

namespace vitrail::cuda {

CudaOps::CudaOps(StreamDevice& device, Precision precision)
    : device_(device),
      precision_(precision),
      scratch_{Workspace(device), Workspace(device), Workspace(device), Workspace(device)},
      gemm_(device) {}

std::int64_t CudaOps::workspace_bytes() const noexcept {
  std::int64_t bytes = 0;
  for (const Workspace& block : scratch_) bytes += block.capacity();
  return bytes;
}

void CudaOps::seal() {
  for (Workspace& block : scratch_) block.seal();
  gemm_.seal();
}

}  // namespace vitrail::cuda

namespace vitrail {

std::unique_ptr<Ops> make_cuda_ops(Device& device, Precision precision) {
  return std::make_unique<cuda::CudaOps>(cuda::stream_device(device), precision);
}

}  // namespace vitrail
