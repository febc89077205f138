#pragma once
// The simulated machine: device memory, streams with their queues, captures, and the error that stays.

#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "cuda_runtime.h"
#include "device_memory.hpp"

namespace vitrail::emulated {

enum class WorkKind { kernel, copy, set, product, record, graph };

/// One thing that a stream does. `run` returns what went wrong, or nothing.
struct Work {
  WorkKind kind;
  std::function<std::string()> run;
};

/// A place in a stream: everything with a ticket up to this one.
struct Place {
  CUstream_st* stream = nullptr;
  std::uint64_t ticket = 0;
};

struct Queued {
  std::uint64_t ticket;
  Work work;
  std::vector<Place> after;  ///< places of other streams that must be reached before
};

struct GraphNode {
  Work work;
  std::vector<std::size_t> after;  ///< nodes before this one
};

struct Capture {
  std::uint64_t id;
  CUstream_st* origin;
  cudaStreamCaptureMode mode;
  std::thread::id thread;
  bool is_valid = true;
  std::vector<GraphNode> nodes;
  std::map<CUstream_st*, std::vector<std::size_t>> tails;  ///< what the next node of a stream comes after
};

}  // namespace vitrail::emulated

struct CUstream_st {
  bool is_blocking = true;  ///< waits for the default stream, and that for it
  bool is_alive = true;
  std::deque<vitrail::emulated::Queued> queue;
  std::vector<vitrail::emulated::Place> after;  ///< what the next work waits for
  std::uint64_t last_ticket = 0;
  vitrail::emulated::Capture* capture = nullptr;
};

struct CUevent_st {
  bool has_time = true;
  bool is_alive = true;
  int queries = 0;
  vitrail::emulated::Place place;  ///< of the last record
  std::uint64_t capture = 0;       ///< the capture in which it was last recorded
  std::vector<std::size_t> tails;
  std::chrono::steady_clock::time_point time;
};

namespace vitrail::emulated {

class Machine {
 public:
  std::recursive_mutex mutex;
  DeviceMemory memory;
  std::map<const void*, std::size_t> pinned;
  std::map<const void*, std::size_t> shared_limit;  ///< of functions, where it was raised
  CUstream_st default_stream;
  std::list<Capture> captures;
  std::uint64_t captures_begun = 0;
  std::string failure;
  cudaError_t sticky = cudaSuccess;

  CUstream_st* add_stream();
  CUevent_st* add_event();
  /// Null if it is none of ours, or destroyed.
  CUstream_st* find(cudaStream_t stream);
  static CUevent_st* find(cudaEvent_t event);

  /// Puts work into the stream, or, while that is captured, into the graph.
  cudaError_t enqueue(CUstream_st& stream, Work work);
  [[nodiscard]] static bool is_reached(const Place& place);
  /// Does what must be done to reach the place, and no more.
  cudaError_t run_until(const Place& place);
  cudaError_t run_all();
  /// Whether this launch goes down in lanes.
  bool next_is_descending();
  /// Whether this launch is the one that a test wants to fail.
  bool next_fails(const void* function);
  /// What such a launch leaves.
  std::string illegal_address(const void* function);
  /// A call that the calling thread's captures forbid: ends them and returns `error`.
  cudaError_t refuse_in_capture(cudaError_t error);
  void fail(const std::string& text, cudaError_t error = cudaErrorLaunchFailure);
  void forget();

 private:
  void advance(const Place& place);
  std::list<CUstream_st> streams_;  ///< destroyed ones stay, so that their use is seen
  std::list<CUevent_st> events_;
  std::uint64_t tickets_ = 0;
  std::uint64_t launches_ = 0;
  std::map<const void*, bool> counted_kernels_;  ///< whether the name is the wanted one
  std::int64_t counted_launches_ = 0;
  cudaError_t failing_with_ = cudaErrorLaunchFailure;
};

Machine& machine();

/// What every call of the runtime returns through: keeps the error for cudaGetLastError.
cudaError_t remembered(cudaError_t error);
/// The error with which every call fails now: no device, or a kernel failed.
cudaError_t standing_error();
/// For a call that no captured stream allows: ends its capture. cudaSuccess for other streams.
cudaError_t refuse_captured(CUstream_st& stream);

/// The name of a function, from the program's symbols.
std::string name_of_function(const void* function);

}  // namespace vitrail::emulated
