#pragma once
// Where memory is, how bytes are moved there, and in which order work is done. One Device object per rank, made in main
// and handed down.
//
// A device is a queue: verbs (ops/ops.hpp), copy() between its own tensors and zero() are done in the order of the
// calls, but perhaps later than the call returns (asynchronous()). Host memory is read and written when a call says so.

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "device/tensor.hpp"

namespace vitrail {

class Device {
 public:
  Device() = default;
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;
  virtual ~Device() = default;

  [[nodiscard]] virtual DeviceKind kind() const noexcept = 0;
  /// For reports: "NVIDIA H200, compute capability 9.0, 139.8 GiB"; "host".
  [[nodiscard]] virtual std::string description() const = 0;
  /// Memory aligned to at least 64 bytes; every byte is 0, in the order of the queue. Error (usage) when there is not
  /// enough.
  virtual void* allocate(std::int64_t bytes) = 0;
  virtual void release(void* memory, std::int64_t bytes) noexcept = 0;
  /// Host memory that upload() and download() take: page-locked where the device copies by itself. 64-byte aligned, not
  /// initialised.
  virtual void* allocate_host(std::int64_t bytes) = 0;
  virtual void release_host(void* memory, std::int64_t bytes) noexcept = 0;

  /// Copies between tensors of equal dtype and element count; either may be any host memory. In the order of the queue;
  /// done when it returns if one of them is host memory.
  virtual void copy(ConstTensor from, Tensor to) = 0;
  /// Sets every byte to 0, in the order of the queue.
  virtual void zero(Tensor tensor) = 0;

  /// A place in the queue: behind everything that was called before. Places grow.
  using Place = std::uint64_t;
  [[nodiscard]] virtual Place place() = 0;
  /// Returns when everything before the place is done, uploads and downloads too.
  virtual void wait(Place place) = 0;
  /// Returns when everything is done. An error of earlier work is thrown here at the latest.
  void synchronize() { wait(place()); }
  /// Starts a copy from allocate_host() memory, beside the queue: it begins when `free` is reached, the last work that
  /// reads `to`, and what is called from now on sees it. `from` may not change before a later place is reached.
  virtual void upload(ConstTensor from, Tensor to, Place free) = 0;
  /// Starts a copy to allocate_host() memory, in the order of the queue; done when a later place is reached.
  virtual void download(ConstTensor from, Tensor to) = 0;
  /// Calls `work`, which calls verbs, copy() between the device's own tensors and zero() alone (without
  /// CudaOptions::graphs anything but submit()). A device may record them and run them as one graph; `name` tells it
  /// which earlier recording this one is like ("pass", "update").
  virtual void submit(const std::string& name, const std::function<void()>& work) = 0;
  /// Whether calls may return before the work is done.
  [[nodiscard]] virtual bool asynchronous() const noexcept = 0;
};

/// Host memory: 64-byte aligned; large blocks in huge pages where the machine has them, which are touched by nobody
/// before they are used. Everything is done when a call returns.
std::unique_ptr<Device> make_cpu_device();

struct CudaOptions {
  int index = 0;       ///< of the GPU among those that this process sees
  bool graphs = true;  ///< submit() records a CUDA graph; off for communicators that cannot be recorded
};

/// An NVIDIA GPU. Error (usage) when this build has no CUDA, when there is no GPU of that index, when it or the driver
/// is too old: what was found and what is needed.
std::unique_ptr<Device> make_cuda_device(const CudaOptions& options = {});

/// An identity of every GPU that this process sees, in the order of their indices: equal in two processes that see the
/// same one. Empty in a build without CUDA, and where there is no driver or no GPU. Uses no GPU and does not throw.
std::vector<std::string> cuda_devices();

/// Bytes of a GPU's memory, of all processes. 0 for a device that is no GPU.
struct MemoryInUse {
  std::int64_t used = 0;
  std::int64_t total = 0;
};
MemoryInUse memory_in_use(const Device& device);

}  // namespace vitrail
