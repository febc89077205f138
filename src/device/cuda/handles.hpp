#pragma once
// Owners of the CUDA runtime's handles.

#include <cuda_runtime.h>

#include "base/unique_handle.hpp"

namespace vitrail::cuda {

struct StreamTraits {
  using Handle = cudaStream_t;
  static constexpr Handle null = nullptr;
  static void close(Handle handle) noexcept { static_cast<void>(cudaStreamDestroy(handle)); }
};
using UniqueStream = UniqueHandle<StreamTraits>;

struct EventTraits {
  using Handle = cudaEvent_t;
  static constexpr Handle null = nullptr;
  static void close(Handle handle) noexcept { static_cast<void>(cudaEventDestroy(handle)); }
};
using UniqueEvent = UniqueHandle<EventTraits>;

struct GraphTraits {
  using Handle = cudaGraph_t;
  static constexpr Handle null = nullptr;
  static void close(Handle handle) noexcept { static_cast<void>(cudaGraphDestroy(handle)); }
};
using UniqueGraph = UniqueHandle<GraphTraits>;

struct ExecutableTraits {
  using Handle = cudaGraphExec_t;
  static constexpr Handle null = nullptr;
  static void close(Handle handle) noexcept { static_cast<void>(cudaGraphExecDestroy(handle)); }
};
using UniqueExecutable = UniqueHandle<ExecutableTraits>;

/// An event without times.
UniqueEvent make_event();

}  // namespace vitrail::cuda
