#pragma once
// submit() as CUDA graphs: work is recorded each time that it is called, and runs as one graph. The graph made for an
// earlier recording of the same name only takes over the new arguments where the two have the same shape.

#include <functional>
#include <map>
#include <string>

#include "device/cuda/handles.hpp"

namespace vitrail::cuda {

class Recordings {
 public:
  explicit Recordings(cudaStream_t stream) : stream_(stream) {}

  /// Calls `work` and runs what it put into the stream. The first time that a name is seen it runs without a recording:
  /// that loads kernels and lets verbs make what they keep. When `work` throws, what was recorded is thrown away.
  void run(const std::string& name, const std::function<void()>& work);
  /// Between the first and the last call of a `work` that is being recorded.
  [[nodiscard]] bool recording() const noexcept { return recording_; }

 private:
  UniqueGraph record(const std::function<void()>& work);
  void fit(UniqueExecutable& executable, const UniqueGraph& graph);

  cudaStream_t stream_;
  bool recording_ = false;
  std::map<std::string, UniqueExecutable> by_name_;
};

}  // namespace vitrail::cuda
