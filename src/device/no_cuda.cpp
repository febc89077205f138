// Stands in for device/cuda in builds without CUDA.

#include "device/device.hpp"
#include "device/queue_clock.hpp"

namespace vitrail {

std::unique_ptr<Device> make_cuda_device(const CudaOptions&) {
  fail(ExitCode::usage, {"this build has no CUDA back end", "it was configured without VITRAIL_CUDA",
                         "Use --backend cpu, or build with -DVITRAIL_CUDA=ON (Spack: vitrail +cuda)"});
}

std::vector<std::string> cuda_devices() { return {}; }

MemoryInUse memory_in_use(const Device&) { return {}; }

std::unique_ptr<QueueClock> make_gpu_queue_clock(Device& device) {
  fail(ExitCode::other,
       {text("a clock of the device '", device.description(), "'"), "this build has no GPUs", "This is a bug"});
}

}  // namespace vitrail
