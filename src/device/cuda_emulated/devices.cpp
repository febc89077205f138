// Errors' names, and the properties of the simulated device: a card with the limits of sm_90.

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <mutex>

#include "block.hpp"
#include "emulation.hpp"
#include "machine.hpp"

using namespace vitrail::emulated;

namespace {

struct ErrorText {
  cudaError_t error;
  const char* name;
  const char* text;
};
#define VITRAIL_EMULATED_ERROR(name, text) \
  { name, #name, text }
constexpr ErrorText kErrors[] = {
    VITRAIL_EMULATED_ERROR(cudaSuccess, "no error"),
    VITRAIL_EMULATED_ERROR(cudaErrorInvalidValue, "invalid argument"),
    VITRAIL_EMULATED_ERROR(cudaErrorMemoryAllocation, "out of memory"),
    VITRAIL_EMULATED_ERROR(cudaErrorInitializationError, "initialization error"),
    VITRAIL_EMULATED_ERROR(cudaErrorInvalidConfiguration, "invalid configuration argument"),
    VITRAIL_EMULATED_ERROR(cudaErrorInvalidDevicePointer, "invalid device pointer"),
    VITRAIL_EMULATED_ERROR(cudaErrorInvalidMemcpyDirection, "invalid copy direction for memcpy"),
    VITRAIL_EMULATED_ERROR(cudaErrorInsufficientDriver, "CUDA driver version is insufficient for CUDA runtime version"),
    VITRAIL_EMULATED_ERROR(cudaErrorInvalidDeviceFunction, "invalid device function"),
    VITRAIL_EMULATED_ERROR(cudaErrorNoDevice, "no CUDA-capable device is detected"),
    VITRAIL_EMULATED_ERROR(cudaErrorInvalidDevice, "invalid device ordinal"),
    VITRAIL_EMULATED_ERROR(cudaErrorNoKernelImageForDevice, "no kernel image is available for execution on the device"),
    VITRAIL_EMULATED_ERROR(cudaErrorInvalidResourceHandle, "invalid resource handle"),
    VITRAIL_EMULATED_ERROR(cudaErrorIllegalState, "the operation cannot be performed in the present state"),
    VITRAIL_EMULATED_ERROR(cudaErrorNotReady, "device not ready"),
    VITRAIL_EMULATED_ERROR(cudaErrorIllegalAddress, "an illegal memory access was encountered"),
    VITRAIL_EMULATED_ERROR(cudaErrorLaunchOutOfResources, "too many resources requested for launch"),
    VITRAIL_EMULATED_ERROR(cudaErrorLaunchTimeout, "the launch timed out and was terminated"),
    VITRAIL_EMULATED_ERROR(cudaErrorMisalignedAddress, "misaligned address"),
    VITRAIL_EMULATED_ERROR(cudaErrorLaunchFailure, "unspecified launch failure"),
    VITRAIL_EMULATED_ERROR(cudaErrorNotPermitted, "operation not permitted"),
    VITRAIL_EMULATED_ERROR(cudaErrorNotSupported, "operation not supported"),
    VITRAIL_EMULATED_ERROR(cudaErrorStreamCaptureUnsupported, "operation not permitted when stream is capturing"),
    VITRAIL_EMULATED_ERROR(cudaErrorStreamCaptureInvalidated,
                           "operation failed due to a previous error during capture"),
    VITRAIL_EMULATED_ERROR(cudaErrorStreamCaptureMerge,
                           "operation would result in a merge of separate capture sequences"),
    VITRAIL_EMULATED_ERROR(cudaErrorStreamCaptureUnmatched, "capture was not ended in the same stream as it began"),
    VITRAIL_EMULATED_ERROR(cudaErrorStreamCaptureUnjoined, "capturing stream has unjoined work"),
    VITRAIL_EMULATED_ERROR(cudaErrorStreamCaptureIsolation, "dependency created on uncaptured work in another stream"),
    VITRAIL_EMULATED_ERROR(cudaErrorStreamCaptureImplicit,
                           "operation would make the legacy stream depend on a capturing blocking stream"),
    VITRAIL_EMULATED_ERROR(cudaErrorCapturedEvent,
                           "operation not permitted on an event last recorded in a capturing stream"),
    VITRAIL_EMULATED_ERROR(cudaErrorStreamCaptureWrongThread,
                           "attempt to terminate a thread-local capture sequence from another thread"),
    VITRAIL_EMULATED_ERROR(cudaErrorGraphExecUpdateFailure,
                           "the graph update was not performed because it included changes which violated constraints "
                           "specific to instantiated graph update"),
    VITRAIL_EMULATED_ERROR(cudaErrorUnknown, "unknown error"),
};
#undef VITRAIL_EMULATED_ERROR

const ErrorText* find_error(cudaError_t error) {
  const auto* found = std::find_if(std::begin(kErrors), std::end(kErrors),
                                   [error](const ErrorText& known) { return known.error == error; });
  return found == std::end(kErrors) ? nullptr : found;
}

cudaError_t check_device(int device) {
  if (simulation().devices < 1) return remembered(cudaErrorNoDevice);
  return device >= 0 && device < simulation().devices ? cudaSuccess : remembered(cudaErrorInvalidDevice);
}

std::size_t total_memory() { return static_cast<std::size_t>(simulation().memory_mib) << 20; }

constexpr int kVersion = CUDART_VERSION;

}  // namespace

const char* cudaGetErrorName(cudaError_t error) {
  const ErrorText* found = find_error(error);
  return found == nullptr ? "unrecognized error code" : found->name;
}
const char* cudaGetErrorString(cudaError_t error) {
  const ErrorText* found = find_error(error);
  return found == nullptr ? "unrecognized error code" : found->text;
}

cudaError_t cudaGetDeviceCount(int* count) {
  *count = simulation().devices;
  return simulation().devices > 0 ? cudaSuccess : remembered(cudaErrorNoDevice);
}
// All devices are one: what differs between ranks is only the number that they name.
cudaError_t cudaSetDevice(int device) { return check_device(device); }
cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return check_device(0);
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  if (const cudaError_t error = check_device(device); error != cudaSuccess) return error;
  *properties = {};
  std::strcpy(properties->name, "emulated GPU");
  properties->uuid.bytes[0] = static_cast<char>(device);
  properties->totalGlobalMem = total_memory();
  properties->sharedMemPerBlock = 48 << 10;
  properties->regsPerBlock = properties->regsPerMultiprocessor = 65536;
  properties->warpSize = kWarp;
  properties->maxThreadsPerBlock = kMaxLanes;
  properties->maxThreadsDim[0] = properties->maxThreadsDim[1] = 1024;
  properties->maxThreadsDim[2] = 64;
  properties->maxGridSize[0] = 2147483647;
  properties->maxGridSize[1] = properties->maxGridSize[2] = 65535;
  properties->totalConstMem = 65536;
  properties->major = simulation().major;
  properties->minor = simulation().minor;
  properties->multiProcessorCount = 132;
  properties->asyncEngineCount = 3;
  properties->memoryBusWidth = 5120;
  properties->l2CacheSize = 50 << 20;
  properties->maxThreadsPerMultiProcessor = 2048;
  properties->sharedMemPerMultiprocessor = 228 << 10;
  properties->sharedMemPerBlockOptin = kMaxSharedBytes;
  properties->maxBlocksPerMultiProcessor = 32;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  cudaDeviceProp properties{};
  if (const cudaError_t error = cudaGetDeviceProperties(&properties, device); error != cudaSuccess) return error;
  switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock:
      *value = properties.maxThreadsPerBlock;
      return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlock:
      *value = static_cast<int>(properties.sharedMemPerBlock);
      return cudaSuccess;
    case cudaDevAttrWarpSize:
      *value = properties.warpSize;
      return cudaSuccess;
    case cudaDevAttrClockRate:
      *value = 1980000;
      return cudaSuccess;
    case cudaDevAttrMultiProcessorCount:
      *value = properties.multiProcessorCount;
      return cudaSuccess;
    case cudaDevAttrMemoryClockRate:
      *value = 2619000;
      return cudaSuccess;
    case cudaDevAttrGlobalMemoryBusWidth:
      *value = properties.memoryBusWidth;
      return cudaSuccess;
    case cudaDevAttrL2CacheSize:
      *value = properties.l2CacheSize;
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMajor:
      *value = properties.major;
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMinor:
      *value = properties.minor;
      return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
      *value = static_cast<int>(properties.sharedMemPerMultiprocessor);
      return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = static_cast<int>(properties.sharedMemPerBlockOptin);
      return cudaSuccess;
  }
  return remembered(cudaErrorInvalidValue);
}

cudaError_t cudaDeviceGetPCIBusId(char* id, int length, int device) {
  if (const cudaError_t error = check_device(device); error != cudaSuccess) return error;
  if (length < 13) return remembered(cudaErrorInvalidValue);
  std::snprintf(id, static_cast<std::size_t>(length), "0000:00:00.0");
  return cudaSuccess;
}

cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* total) {
  const std::lock_guard lock(machine().mutex);
  if (const cudaError_t error = standing_error(); error != cudaSuccess) return remembered(error);
  *total = total_memory();
  *free = *total - machine().memory.used();
  return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int* version) {
  *version = simulation().devices > 0 ? kVersion : 0;
  return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = kVersion;
  return cudaSuccess;
}
