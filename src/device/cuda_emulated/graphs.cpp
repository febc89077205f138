// Stream capture and graphs. A graph launched runs its nodes in one of two orders that their dependencies allow.

#include <algorithm>
#include <memory>
#include <mutex>
#include <vector>

#include "machine.hpp"

using namespace vitrail::emulated;

struct CUgraphNode_st {};

struct CUgraph_st {
  std::vector<GraphNode> nodes;
};
struct CUgraphExec_st {
  std::vector<GraphNode> nodes;
};

namespace {

/// Runs every node after those before it; among the ready ones the first, or the last.
std::string run_graph(const std::vector<GraphNode>& nodes, bool last_first) {
  std::vector<bool> done(nodes.size());
  const auto is_ready = [&](std::size_t node) {
    return !done[node] && std::all_of(nodes[node].after.begin(), nodes[node].after.end(),
                                      [&](std::size_t before) { return done[before]; });
  };
  for (std::size_t count = 0; count < nodes.size(); ++count) {
    std::size_t next = nodes.size();
    for (std::size_t node = 0; node < nodes.size() && (last_first || next == nodes.size()); ++node) {
      if (is_ready(node)) next = node;
    }
    if (std::string text = nodes[next].work.run(); !text.empty()) return text;
    done[next] = true;
  }
  return {};
}

/// Whether the origin's next node would come after every node of the capture.
bool is_joined(const Capture& capture) {
  std::vector<bool> reached(capture.nodes.size());
  std::vector<std::size_t> open;
  if (const auto tails = capture.tails.find(capture.origin); tails != capture.tails.end()) open = tails->second;
  while (!open.empty()) {
    const std::size_t node = open.back();
    open.pop_back();
    if (reached[node]) continue;
    reached[node] = true;
    open.insert(open.end(), capture.nodes[node].after.begin(), capture.nodes[node].after.end());
  }
  return std::all_of(reached.begin(), reached.end(), [](bool one) { return one; });
}

}  // namespace

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode) {
  const std::lock_guard lock(machine().mutex);
  if (const cudaError_t error = standing_error(); error != cudaSuccess) return remembered(error);
  CUstream_st* found = machine().find(stream);
  if (found == nullptr) return remembered(cudaErrorInvalidResourceHandle);
  if (stream == nullptr) return remembered(cudaErrorStreamCaptureUnsupported);
  if (found->capture != nullptr) return remembered(cudaErrorIllegalState);
  Capture& capture = machine().captures.emplace_back();
  capture.id = ++machine().captures_begun;
  capture.origin = found;
  capture.mode = mode;
  capture.thread = std::this_thread::get_id();
  capture.tails[found];
  found->capture = &capture;
  return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  const std::lock_guard lock(machine().mutex);
  *graph = nullptr;
  CUstream_st* found = machine().find(stream);
  if (found == nullptr) return remembered(cudaErrorInvalidResourceHandle);
  Capture* capture = found->capture;
  if (capture == nullptr) return remembered(cudaErrorIllegalState);
  if (capture->origin != found) {
    capture->is_valid = false;
    return remembered(cudaErrorStreamCaptureUnmatched);
  }
  if (capture->mode != cudaStreamCaptureModeRelaxed && capture->thread != std::this_thread::get_id()) {
    return remembered(cudaErrorStreamCaptureWrongThread);
  }
  cudaError_t error = cudaSuccess;
  if (!capture->is_valid) error = cudaErrorStreamCaptureInvalidated;
  if (error == cudaSuccess && !is_joined(*capture)) error = cudaErrorStreamCaptureUnjoined;
  if (error == cudaSuccess) *graph = new CUgraph_st{std::move(capture->nodes)};
  for (auto& [member, tails] : capture->tails) member->capture = nullptr;
  machine().captures.remove_if([capture](const Capture& one) { return &one == capture; });
  return remembered(error);
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  const std::lock_guard lock(machine().mutex);
  const CUstream_st* found = machine().find(stream);
  if (found == nullptr) return remembered(cudaErrorInvalidResourceHandle);
  *status = found->capture == nullptr   ? cudaStreamCaptureStatusNone
            : !found->capture->is_valid ? cudaStreamCaptureStatusInvalidated
                                        : cudaStreamCaptureStatusActive;
  return cudaSuccess;
}

cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t* nodes, std::size_t* count) {
  if (graph == nullptr || nodes != nullptr) return remembered(cudaErrorInvalidValue);
  *count = graph->nodes.size();
  return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long) {
  const std::lock_guard lock(machine().mutex);
  if (const cudaError_t error = standing_error(); error != cudaSuccess) return remembered(error);
  if (executable == nullptr || graph == nullptr) return remembered(cudaErrorInvalidValue);
  *executable = new CUgraphExec_st{graph->nodes};
  return cudaSuccess;
}

cudaError_t cudaGraphExecUpdate(cudaGraphExec_t executable, cudaGraph_t graph, cudaGraphExecUpdateResultInfo* result) {
  const std::lock_guard lock(machine().mutex);
  if (const cudaError_t error = standing_error(); error != cudaSuccess) return remembered(error);
  if (executable == nullptr || graph == nullptr || result == nullptr) return remembered(cudaErrorInvalidValue);
  *result = {};
  const auto& old_nodes = executable->nodes;
  const auto& new_nodes = graph->nodes;
  if (old_nodes.size() != new_nodes.size()) result->result = cudaGraphExecUpdateErrorTopologyChanged;
  for (std::size_t i = 0; i < new_nodes.size() && result->result == cudaGraphExecUpdateSuccess; ++i) {
    if (old_nodes[i].after != new_nodes[i].after) result->result = cudaGraphExecUpdateErrorTopologyChanged;
    if (old_nodes[i].work.kind != new_nodes[i].work.kind) result->result = cudaGraphExecUpdateErrorNodeTypeChanged;
  }
  if (result->result != cudaGraphExecUpdateSuccess) return remembered(cudaErrorGraphExecUpdateFailure);
  executable->nodes = new_nodes;
  return cudaSuccess;
}

cudaError_t cudaGraphUpload(cudaGraphExec_t executable, cudaStream_t) {
  return executable == nullptr ? remembered(cudaErrorInvalidValue) : cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
  const std::lock_guard lock(machine().mutex);
  if (const cudaError_t error = standing_error(); error != cudaSuccess) return remembered(error);
  CUstream_st* found = machine().find(stream);
  if (executable == nullptr || found == nullptr) return remembered(cudaErrorInvalidResourceHandle);
  // A graph inside a graph is not emulated.
  if (const cudaError_t error = refuse_captured(*found); error != cudaSuccess) return remembered(error);
  return remembered(machine().enqueue(*found, {WorkKind::graph, [nodes = executable->nodes] {
                                                 return run_graph(nodes, machine().next_is_descending());
                                               }}));
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  delete executable;
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}
