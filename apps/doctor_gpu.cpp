#include "apps/doctor_gpu.hpp"

#include <filesystem>

#include "apps/checkpoint_listing.hpp"
#include "device/device.hpp"

namespace vitrail {

GpuSeen see_gpu(int local_rank) {
  GpuSeen seen;
  std::error_code failure;
  seen.has_files = std::filesystem::exists("/dev/nvidia0", failure);
  seen.gpus = static_cast<int>(cuda_devices().size());
  try {
    const auto device = make_cuda_device({.index = seen.gpus == 0 ? 0 : local_rank % seen.gpus, .graphs = false});
    seen.description = device->description();
    const MemoryInUse memory = memory_in_use(*device);
    seen.used = memory.used;
    seen.total = memory.total;
  } catch (const Error& error) {
    seen.problem = error.fault().problem;
  }
  return seen;
}

Finding judge_gpu(const GpuSeen& seen, int ranks_of_node) {
  if (seen.gpus == 0 && !seen.has_files) return ok("gpu", text("none: ", seen.problem));
  if (seen.gpus == 0) {
    return warn("gpu", text("the node has GPUs (/dev/nvidia0), but ", seen.problem),
                "--backend cuda needs a build with CUDA, and a driver that it knows");
  }
  if (seen.description.empty()) return bad("gpu", seen.problem, "Is the driver in order? nvidia-smi tells");
  const std::string said = text(seen.gpus, seen.gpus == 1 ? " GPU: " : " GPUs: ", seen.description, "; ",
                                size_text(seen.used), " of ", size_text(seen.total), " in use");
  if (ranks_of_node > seen.gpus) {
    return warn("gpu", text(said, "; ", ranks_of_node, " ranks on this node"),
                "Start one rank per GPU; --communicator staged lets ranks share one");
  }
  if (seen.used > seen.total / 4) {
    return warn("gpu", said, "Another process has much of its memory: nvidia-smi tells whose");
  }
  return ok("gpu", said);
}

}  // namespace vitrail
