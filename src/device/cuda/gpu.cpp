#include "device/cuda/gpu.hpp"

#include <cstdlib>
#include <iomanip>
#include <sstream>

#include "device/cuda/check.hpp"

namespace vitrail::cuda {

namespace {

constexpr const char* kOtherwise = "Use --backend cpu where there is none";

// 13000 is 13.0
std::string version_text(int version) { return text(version / 1000, ".", version % 1000 / 10); }

std::string capability_text(int major, int minor) { return text("compute capability ", major, ".", minor); }

// What may hide GPUs from this process.
std::string visible_devices() {
  const char* named = std::getenv("CUDA_VISIBLE_DEVICES");
  return named == nullptr ? std::string() : text(", CUDA_VISIBLE_DEVICES is '", named, "'");
}

[[noreturn]] void fail_on_driver() {
  int driver = 0;
  int runtime = 0;
  static_cast<void>(cudaDriverGetVersion(&driver));
  static_cast<void>(cudaRuntimeGetVersion(&runtime));
  if (driver == 0) {
    fail(ExitCode::usage, {"no NVIDIA driver was found on this machine",
                           text("this build runs on a GPU with a driver for CUDA ", version_text(runtime)),
                           "Start on a node with a GPU (Slurm: --gpus-per-task=1), or use --backend cpu"});
  }
  fail(ExitCode::usage, {text("the NVIDIA driver is too old: it supports CUDA ", version_text(driver)),
                         text("this build needs a driver for CUDA ", version_text(runtime)),
                         "Update the driver, or build with an older CUDA Toolkit (12.4 or later)"});
}

int count_gpus() {
  int count = 0;
  const cudaError_t rc = cudaGetDeviceCount(&count);
  if (rc == cudaSuccess) return count;
  static_cast<void>(cudaGetLastError());  // forget it
  if (rc == cudaErrorInsufficientDriver) fail_on_driver();
  if (rc == cudaErrorNoDevice) return 0;
  fail(ExitCode::usage,
       {text("the GPUs of this machine cannot be listed: ", cudaGetErrorName(rc)),
        text(cudaGetErrorString(rc), visible_devices()), text("See what nvidia-smi says. ", kOtherwise)});
}

// The first call that needs the GPU itself: a GPU in exclusive use by another process, or a broken one, is seen here.
void start_gpu(int index, const cudaDeviceProp& gpu) {
  cudaError_t rc = cudaSetDevice(index);
  if (rc == cudaSuccess) rc = cudaFree(nullptr);
  if (rc == cudaSuccess) return;
  static_cast<void>(cudaGetLastError());
  fail(ExitCode::usage,
       {text("GPU ", index, " (", gpu.name, ") cannot be used: ", cudaGetErrorName(rc)), cudaGetErrorString(rc),
        "See with nvidia-smi whether another process has it for itself (compute mode), or its memory is full"});
}

}  // namespace

cudaDeviceProp open_gpu(int index) {
  const int count = count_gpus();
  VITRAIL_EXPECT(count > 0, ExitCode::usage, "no GPU was found",
                 text("the cuda back end needs an NVIDIA GPU of ", capability_text(kNeededMajor, kNeededMinor),
                      " or later", visible_devices()),
                 "Ask the batch system for one (Slurm: --gpus-per-task=1), or use --backend cpu");
  VITRAIL_EXPECT(index >= 0 && index < count, ExitCode::usage, text("there is no GPU ", index),
                 count == 1 ? text("this process sees one, number 0", visible_devices())
                            : text("this process sees ", count, ", numbers 0 to ", count - 1, visible_devices()),
                 "Start as many ranks per node as it has GPUs, or let ranks share them with --communicator staged");
  cudaDeviceProp gpu{};
  check(cudaGetDeviceProperties(&gpu, index));
  const bool young_enough = gpu.major > kNeededMajor || (gpu.major == kNeededMajor && gpu.minor >= kNeededMinor);
  VITRAIL_EXPECT(young_enough, ExitCode::usage,
                 text("GPU ", index, " (", gpu.name, ") is too old: ", capability_text(gpu.major, gpu.minor)),
                 text("the kernels need ", capability_text(kNeededMajor, kNeededMinor), " (A100) or later"),
                 kOtherwise);
  start_gpu(index, gpu);
  return gpu;
}

std::string description_of(const cudaDeviceProp& gpu) {
  std::ostringstream said;
  const double gibibytes = static_cast<double>(gpu.totalGlobalMem) / (1 << 30);
  said << gpu.name << ", " << capability_text(gpu.major, gpu.minor) << ", " << std::fixed << std::setprecision(1)
       << gibibytes << " GiB";
  return said.str();
}

}  // namespace vitrail::cuda
