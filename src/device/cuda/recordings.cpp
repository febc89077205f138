#include "device/cuda/recordings.hpp"

#include "device/cuda/check.hpp"

namespace vitrail::cuda {

void Recordings::run(const std::string& name, const std::function<void()>& work) {
  const auto entry = by_name_.find(name);
  if (entry == by_name_.end()) {
    work();
    by_name_.try_emplace(name);  // not when it threw
    return;
  }
  const UniqueGraph graph = record(work);
  fit(entry->second, graph);
  check(cudaGraphLaunch(entry->second.get(), stream_));
}

UniqueGraph Recordings::record(const std::function<void()>& work) {
  // Thread-local: another thread, which reads the next batch, may allocate meanwhile.
  check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal));
  cudaGraph_t graph = nullptr;
  recording_ = true;
  try {
    work();
  } catch (...) {
    recording_ = false;
    static_cast<void>(cudaStreamEndCapture(stream_, &graph));  // fails where `work` did what no recording allows
    static_cast<void>(cudaGetLastError());
    const UniqueGraph discarded(graph);
    throw;
  }
  recording_ = false;
  const cudaError_t rc = cudaStreamEndCapture(stream_, &graph);
  UniqueGraph recorded(graph);
  check(rc);
  return recorded;
}

void Recordings::fit(UniqueExecutable& executable, const UniqueGraph& graph) {
  if (executable) {
    cudaGraphExecUpdateResultInfo result{};
    const cudaError_t rc = cudaGraphExecUpdate(executable.get(), graph.get(), &result);
    if (rc == cudaSuccess) return;
    static_cast<void>(cudaGetLastError());
    if (rc != cudaErrorGraphExecUpdateFailure) check(rc);
    check(cudaStreamSynchronize(stream_));  // it may still run
    executable.reset();
  }
  cudaGraphExec_t made = nullptr;
  check(cudaGraphInstantiate(&made, graph.get(), 0));
  executable = UniqueExecutable(made);
}

}  // namespace vitrail::cuda
