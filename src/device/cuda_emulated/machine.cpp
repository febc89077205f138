#include "machine.hpp"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "emulation.hpp"

namespace vitrail::emulated {
namespace {

thread_local cudaError_t last_error = cudaSuccess;

}  // namespace

Simulation simulation_of_environment() {
  Simulation simulation;
  if (const char* devices = std::getenv("VITRAIL_EMULATED_DEVICES")) simulation.devices = std::atoi(devices);
  if (const char* memory = std::getenv("VITRAIL_EMULATED_MEMORY_MIB")) simulation.memory_mib = std::atoll(memory);
  if (const char* capability = std::getenv("VITRAIL_EMULATED_CAPABILITY")) {
    simulation.major = std::atoi(capability) / 10;
    simulation.minor = std::atoi(capability) % 10;
  }
  if (const char* lanes = std::getenv("VITRAIL_EMULATED_LANES")) {
    if (std::strcmp(lanes, "ascending") == 0) simulation.lanes = LaneOrder::ascending;
    if (std::strcmp(lanes, "descending") == 0) simulation.lanes = LaneOrder::descending;
  }
  if (const char* failing = std::getenv("VITRAIL_EMULATED_FAIL_LAUNCH")) {
    const char* colon = std::strrchr(failing, ':');
    if (colon != nullptr) simulation.failing_kernel.assign(failing, colon);
    simulation.failing_launch = std::atoll(colon == nullptr ? failing : colon + 1);
  }
  const char* blocking = std::getenv("CUDA_LAUNCH_BLOCKING");
  simulation.launch_blocking = blocking != nullptr && std::strcmp(blocking, "0") != 0;
  return simulation;
}

Simulation& simulation() {
  static Simulation simulated = simulation_of_environment();
  return simulated;
}

Machine& machine() {
  static auto* const only = new Machine;  // outlives every other static: a device may be one
  return *only;
}

std::string kernel_failure() {
  const std::lock_guard lock(machine().mutex);
  return machine().failure;
}
void forget_failure() {
  const std::lock_guard lock(machine().mutex);
  machine().forget();
}

cudaError_t remembered(cudaError_t error) {
  if (error != cudaSuccess && error != cudaErrorNotReady) last_error = error;
  return error;
}
cudaError_t standing_error() { return simulation().devices < 1 ? cudaErrorNoDevice : machine().sticky; }

CUstream_st* Machine::add_stream() { return &streams_.emplace_back(); }
CUevent_st* Machine::add_event() { return &events_.emplace_back(); }

CUstream_st* Machine::find(cudaStream_t stream) {
  if (stream == nullptr) return &default_stream;
  return stream->is_alive ? stream : nullptr;
}
CUevent_st* Machine::find(cudaEvent_t event) { return event != nullptr && event->is_alive ? event : nullptr; }

cudaError_t Machine::enqueue(CUstream_st& stream, Work work) {
  if (stream.capture != nullptr) {
    Capture& capture = *stream.capture;
    if (!capture.is_valid) return cudaErrorStreamCaptureInvalidated;
    auto& tails = capture.tails[&stream];
    capture.nodes.push_back({std::move(work), tails});
    tails.assign(1, capture.nodes.size() - 1);
    return cudaSuccess;
  }
  if (stream.is_blocking) {  // the default stream and the blocking ones wait for each other
    for (CUstream_st& other : streams_) {
      const bool joins = &stream == &default_stream && other.is_blocking && other.is_alive;
      if (joins && other.capture != nullptr) return refuse_in_capture(cudaErrorStreamCaptureImplicit);
      if (joins) stream.after.push_back({&other, other.last_ticket});
    }
    if (&stream != &default_stream) stream.after.push_back({&default_stream, default_stream.last_ticket});
  }
  stream.last_ticket = ++tickets_;
  stream.queue.push_back({stream.last_ticket, std::move(work), std::exchange(stream.after, {})});
  return cudaSuccess;
}

bool Machine::is_reached(const Place& place) {
  return place.stream == nullptr || place.stream->queue.empty() || place.stream->queue.front().ticket > place.ticket;
}

void Machine::advance(const Place& place) {
  while (sticky == cudaSuccess && !is_reached(place)) {
    for (const Place& before : place.stream->queue.front().after) advance(before);
    if (sticky != cudaSuccess) return;
    const Queued next = std::move(place.stream->queue.front());
    place.stream->queue.pop_front();
    if (const std::string text = next.work.run(); !text.empty()) fail(text, failing_with_);
  }
}

cudaError_t Machine::run_until(const Place& place) {
  if (is_reached(place)) return sticky;
  const DeviceMemory::Window window(memory);
  advance(place);
  if (sticky == cudaSuccess) {
    if (const std::string text = memory.damage(); !text.empty()) fail(text);
  }
  return sticky;
}

cudaError_t Machine::run_all() {
  cudaError_t error = run_until({&default_stream, default_stream.last_ticket});
  for (CUstream_st& stream : streams_) {
    if (error == cudaSuccess) error = run_until({&stream, stream.last_ticket});
  }
  return error;
}

bool Machine::next_is_descending() {
  ++launches_;
  if (simulation().lanes == LaneOrder::alternate) return launches_ % 2 == 0;
  return simulation().lanes == LaneOrder::descending;
}

bool Machine::next_fails(const void* function) {
  if (simulation().failing_launch <= 0) return false;
  auto counted = counted_kernels_.find(function);
  if (counted == counted_kernels_.end()) {
    const bool is_named = name_of_function(function).find(simulation().failing_kernel) != std::string::npos;
    counted = counted_kernels_.emplace(function, is_named).first;
  }
  return counted->second && ++counted_launches_ == simulation().failing_launch;
}

cudaError_t Machine::refuse_in_capture(cudaError_t error) {
  bool refused = false;
  for (Capture& capture : captures) {
    const bool concerns =
        capture.mode == cudaStreamCaptureModeGlobal ||
        (capture.mode == cudaStreamCaptureModeThreadLocal && capture.thread == std::this_thread::get_id());
    if (!concerns) continue;
    capture.is_valid = false;
    refused = true;
  }
  return refused ? error : cudaSuccess;
}

cudaError_t refuse_captured(CUstream_st& stream) {
  if (stream.capture == nullptr) return cudaSuccess;
  stream.capture->is_valid = false;
  return cudaErrorStreamCaptureUnsupported;
}

std::string Machine::illegal_address(const void* function) {
  failing_with_ = cudaErrorIllegalAddress;
  return name_of_function(function) + ": an illegal address, as VITRAIL_EMULATED_FAIL_LAUNCH wants it";
}

void Machine::fail(const std::string& text, cudaError_t error) {
  failure = text;
  sticky = error;
  std::fprintf(stderr, "CUDA emulation: %s\n", text.c_str());
  default_stream.queue.clear();
  for (CUstream_st& stream : streams_) stream.queue.clear();
}

void Machine::forget() {
  failure.clear();
  failing_with_ = cudaErrorLaunchFailure;
  counted_kernels_.clear();
  counted_launches_ = 0;
  sticky = cudaSuccess;
  last_error = cudaSuccess;
}

}  // namespace vitrail::emulated

cudaError_t cudaGetLastError() {
  using namespace vitrail::emulated;
  const cudaError_t error = std::exchange(last_error, cudaSuccess);
  return machine().sticky != cudaSuccess ? machine().sticky : error;
}
cudaError_t cudaPeekAtLastError() {
  using namespace vitrail::emulated;
  return machine().sticky != cudaSuccess ? machine().sticky : last_error;
}
