// Allocation, copies and sets.

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <memory>
#include <mutex>
#include <vector>

#include "emulation.hpp"
#include "machine.hpp"

using namespace vitrail::emulated;

namespace {

/// Calls that are illegal while this thread captures.
cudaError_t standing_or_capture_error() {
  if (const cudaError_t error = standing_error(); error != cudaSuccess) return error;
  return machine().refuse_in_capture(cudaErrorStreamCaptureUnsupported);
}

bool is_pinned(const void* address) {
  const auto& pinned = machine().pinned;
  auto found = pinned.upper_bound(address);
  if (found == pinned.begin()) return false;
  --found;
  return static_cast<const std::byte*>(address) < static_cast<const std::byte*>(found->first) + found->second;
}

/// Whether the ends of a copy are where its kind says, each inside one block.
bool is_legal(const void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind) {
  const DeviceMemory& memory = machine().memory;
  const bool to_device = memory.contains(to), from_device = memory.contains(from);
  if (to_device && !memory.is_in_a_block(to, bytes)) return false;
  if (from_device && !memory.is_in_a_block(from, bytes)) return false;
  switch (kind) {
    case cudaMemcpyHostToHost:
      return !to_device && !from_device;
    case cudaMemcpyHostToDevice:
      return to_device && !from_device;
    case cudaMemcpyDeviceToHost:
      return !to_device && from_device;
    case cudaMemcpyDeviceToDevice:
      return to_device && from_device;
    case cudaMemcpyDefault:
      return true;
  }
  return false;
}

cudaError_t copy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  if (bytes == 0) return cudaSuccess;
  CUstream_st* found = machine().find(stream);
  if (found == nullptr) return cudaErrorInvalidResourceHandle;
  if (to == nullptr || from == nullptr || !is_legal(to, from, bytes, kind)) return cudaErrorInvalidValue;
  const bool from_pageable = !machine().memory.contains(from) && !is_pinned(from);
  const bool to_pageable = !machine().memory.contains(to) && !is_pinned(to);
  if (from_pageable && found->capture == nullptr) {  // read before the call returns
    const auto* first = static_cast<const std::byte*>(from);
    return machine().enqueue(*found, {WorkKind::copy, [to, staged = std::vector<std::byte>(first, first + bytes)] {
                                        std::memcpy(to, staged.data(), staged.size());
                                        return std::string();
                                      }});
  }
  const cudaError_t error = machine().enqueue(*found, {WorkKind::copy, [to, from, bytes] {
                                                         std::memmove(to, from, bytes);
                                                         return std::string();
                                                       }});
  if (error != cudaSuccess || !to_pageable || found->capture != nullptr) return error;
  return machine().run_until({found, found->last_ticket});  // written before the call returns
}

cudaError_t set(void* to, int value, std::size_t bytes, cudaStream_t stream) {
  if (bytes == 0) return cudaSuccess;
  CUstream_st* found = machine().find(stream);
  if (found == nullptr) return cudaErrorInvalidResourceHandle;
  if (!machine().memory.is_in_a_block(to, bytes)) return cudaErrorInvalidValue;
  return machine().enqueue(*found, {WorkKind::set, [to, value, bytes] {
                                      std::memset(to, value, bytes);
                                      return std::string();
                                    }});
}

}  // namespace

cudaError_t cudaMalloc(void** pointer, std::size_t bytes) {
  const std::lock_guard lock(machine().mutex);
  if (const cudaError_t error = standing_or_capture_error(); error != cudaSuccess) return remembered(error);
  *pointer = nullptr;
  if (bytes == 0) return cudaSuccess;
  *pointer = machine().memory.allocate(bytes, static_cast<std::size_t>(simulation().memory_mib) << 20);
  return *pointer == nullptr ? remembered(cudaErrorMemoryAllocation) : cudaSuccess;
}

cudaError_t cudaFree(void* pointer) {
  const std::lock_guard lock(machine().mutex);
  if (simulation().devices < 1) return remembered(cudaErrorNoDevice);
  if (const cudaError_t error = machine().refuse_in_capture(cudaErrorStreamCaptureUnsupported); error != cudaSuccess) {
    return remembered(error);
  }
  const cudaError_t error = machine().run_all();  // work that uses the block comes first; after a failure there is none
  if (pointer == nullptr) return remembered(error);
  return remembered(machine().memory.release(pointer) ? error : cudaErrorInvalidValue);
}

cudaError_t cudaHostAlloc(void** pointer, std::size_t bytes, unsigned int) {
  const std::lock_guard lock(machine().mutex);
  if (const cudaError_t error = standing_or_capture_error(); error != cudaSuccess) return remembered(error);
  *pointer = nullptr;
  if (bytes == 0) return cudaSuccess;
  if (posix_memalign(pointer, 4096, bytes) != 0) return remembered(cudaErrorMemoryAllocation);
  std::memset(*pointer, 0xFF, bytes);
  machine().pinned.emplace(*pointer, bytes);
  return cudaSuccess;
}
cudaError_t cudaMallocHost(void** pointer, std::size_t bytes) {
  return cudaHostAlloc(pointer, bytes, cudaHostAllocDefault);
}

cudaError_t cudaFreeHost(void* pointer) {
  const std::lock_guard lock(machine().mutex);
  if (simulation().devices < 1) return remembered(cudaErrorNoDevice);
  if (const cudaError_t error = machine().refuse_in_capture(cudaErrorStreamCaptureUnsupported); error != cudaSuccess) {
    return remembered(error);
  }
  const cudaError_t error = machine().run_all();
  if (pointer == nullptr) return remembered(error);
  if (machine().pinned.erase(pointer) == 0) return remembered(cudaErrorInvalidValue);
  std::free(pointer);
  return remembered(error);
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  const std::lock_guard lock(machine().mutex);
  if (const cudaError_t error = standing_error(); error != cudaSuccess) return remembered(error);
  return remembered(copy(to, from, bytes, kind, stream));
}

cudaError_t cudaMemcpy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind) {
  const std::lock_guard lock(machine().mutex);
  cudaError_t error = standing_error();
  if (error == cudaSuccess) error = machine().refuse_in_capture(cudaErrorStreamCaptureImplicit);
  if (error == cudaSuccess) error = copy(to, from, bytes, kind, nullptr);
  if (error != cudaSuccess) return remembered(error);
  CUstream_st& stream = machine().default_stream;
  return remembered(machine().run_until({&stream, stream.last_ticket}));
}

cudaError_t cudaMemsetAsync(void* to, int value, std::size_t bytes, cudaStream_t stream) {
  const std::lock_guard lock(machine().mutex);
  if (const cudaError_t error = standing_error(); error != cudaSuccess) return remembered(error);
  return remembered(set(to, value, bytes, stream));
}

cudaError_t cudaMemset(void* to, int value, std::size_t bytes) {  // asynchronous to the host, as the toolkit's
  const std::lock_guard lock(machine().mutex);
  cudaError_t error = standing_error();
  if (error == cudaSuccess) error = machine().refuse_in_capture(cudaErrorStreamCaptureImplicit);
  if (error == cudaSuccess) error = set(to, value, bytes, nullptr);
  return remembered(error);
}

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* pointer) {
  const std::lock_guard lock(machine().mutex);
  if (const cudaError_t error = standing_error(); error != cudaSuccess) return remembered(error);
  void* address = const_cast<void*>(pointer);
  if (machine().memory.is_in_a_block(pointer, 1)) {
    *attributes = {cudaMemoryTypeDevice, 0, address, nullptr};
  } else if (is_pinned(pointer)) {
    *attributes = {cudaMemoryTypeHost, 0, address, address};
  } else {
    *attributes = {cudaMemoryTypeUnregistered, -1, nullptr, address};
  }
  return cudaSuccess;
}
