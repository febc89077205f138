// Streams and events.

#include <mutex>

#include "machine.hpp"

using namespace vitrail::emulated;

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned int flags) {
  const std::lock_guard lock(machine().mutex);
  if (const cudaError_t error = standing_error(); error != cudaSuccess) return remembered(error);
  if (stream == nullptr || flags > cudaStreamNonBlocking) return remembered(cudaErrorInvalidValue);
  *stream = machine().add_stream();
  (*stream)->is_blocking = flags != cudaStreamNonBlocking;
  return cudaSuccess;
}
cudaError_t cudaStreamCreate(cudaStream_t* stream) { return cudaStreamCreateWithFlags(stream, cudaStreamDefault); }
cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned int flags, int) {
  return cudaStreamCreateWithFlags(stream, flags);
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  const std::lock_guard lock(machine().mutex);
  CUstream_st* found = machine().find(stream);
  if (found == nullptr || stream == nullptr) return remembered(cudaErrorInvalidResourceHandle);
  if (const cudaError_t error = refuse_captured(*found); error != cudaSuccess) return remembered(error);
  const cudaError_t error = machine().run_until({found, found->last_ticket});
  found->is_alive = false;
  return remembered(error);
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  const std::lock_guard lock(machine().mutex);
  if (const cudaError_t error = standing_error(); error != cudaSuccess) return remembered(error);
  CUstream_st* found = machine().find(stream);
  if (found == nullptr) return remembered(cudaErrorInvalidResourceHandle);
  if (const cudaError_t error = refuse_captured(*found); error != cudaSuccess) return remembered(error);
  if (const cudaError_t error = machine().run_until({found, found->last_ticket}); error != cudaSuccess) {
    return remembered(error);
  }
  for (const Place& place : found->after) {  // a wait for an event with nothing behind it
    if (const cudaError_t error = machine().run_until(place); error != cudaSuccess) return remembered(error);
  }
  return cudaSuccess;
}

cudaError_t cudaStreamQuery(cudaStream_t stream) {
  const std::lock_guard lock(machine().mutex);
  if (const cudaError_t error = standing_error(); error != cudaSuccess) return remembered(error);
  CUstream_st* found = machine().find(stream);
  if (found == nullptr) return remembered(cudaErrorInvalidResourceHandle);
  if (const cudaError_t error = refuse_captured(*found); error != cudaSuccess) return remembered(error);
  if (found->queue.empty()) return cudaSuccess;
  // One piece of work a question, so that whoever polls comes to an end.
  const cudaError_t error = machine().run_until({found, found->queue.front().ticket});
  return remembered(error != cudaSuccess ? error : cudaErrorNotReady);
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned int) {
  const std::lock_guard lock(machine().mutex);
  if (const cudaError_t error = standing_error(); error != cudaSuccess) return remembered(error);
  CUstream_st* waiting = machine().find(stream);
  const CUevent_st* awaited = Machine::find(event);
  if (waiting == nullptr || awaited == nullptr) return remembered(cudaErrorInvalidResourceHandle);
  if (awaited->capture == 0) {
    if (waiting->capture != nullptr) {
      waiting->capture->is_valid = false;
      return remembered(cudaErrorStreamCaptureIsolation);
    }
    if (awaited->place.stream != nullptr) waiting->after.push_back(awaited->place);
    return cudaSuccess;
  }
  Capture* capture = nullptr;
  for (Capture& one : machine().captures) {
    if (one.id == awaited->capture) capture = &one;
  }
  if (capture == nullptr || stream == nullptr) return remembered(cudaErrorCapturedEvent);
  if (waiting->capture != nullptr && waiting->capture != capture) {
    waiting->capture->is_valid = capture->is_valid = false;
    return remembered(cudaErrorStreamCaptureMerge);
  }
  waiting->capture = capture;
  auto& tails = capture->tails[waiting];
  tails.insert(tails.end(), awaited->tails.begin(), awaited->tails.end());
  return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned int flags) {
  const std::lock_guard lock(machine().mutex);
  if (const cudaError_t error = standing_error(); error != cudaSuccess) return remembered(error);
  if (event == nullptr || flags > (cudaEventBlockingSync | cudaEventDisableTiming)) {
    return remembered(cudaErrorInvalidValue);
  }
  *event = machine().add_event();
  (*event)->has_time = (flags & cudaEventDisableTiming) == 0;
  return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t* event) { return cudaEventCreateWithFlags(event, cudaEventDefault); }

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  const std::lock_guard lock(machine().mutex);
  if (Machine::find(event) == nullptr) return remembered(cudaErrorInvalidResourceHandle);
  event->is_alive = false;
  return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  const std::lock_guard lock(machine().mutex);
  if (const cudaError_t error = standing_error(); error != cudaSuccess) return remembered(error);
  CUstream_st* recording = machine().find(stream);
  CUevent_st* found = Machine::find(event);
  if (recording == nullptr || found == nullptr) return remembered(cudaErrorInvalidResourceHandle);
  if (recording->capture != nullptr) {
    if (!recording->capture->is_valid) return remembered(cudaErrorStreamCaptureInvalidated);
    found->capture = recording->capture->id;
    found->tails = recording->capture->tails[recording];
    found->place = {};
    return cudaSuccess;
  }
  const auto record = [found]() -> std::string {
    found->time = std::chrono::steady_clock::now();
    return {};
  };
  if (const cudaError_t error = machine().enqueue(*recording, {WorkKind::record, record}); error != cudaSuccess) {
    return remembered(error);
  }
  found->capture = 0;
  found->place = {recording, recording->last_ticket};
  found->queries = 0;
  return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  const std::lock_guard lock(machine().mutex);
  if (const cudaError_t error = standing_error(); error != cudaSuccess) return remembered(error);
  const CUevent_st* found = Machine::find(event);
  if (found == nullptr) return remembered(cudaErrorInvalidResourceHandle);
  if (found->capture != 0) {
    for (Capture& capture : machine().captures) {
      if (capture.id == found->capture) capture.is_valid = false;
    }
    return remembered(cudaErrorCapturedEvent);
  }
  return remembered(machine().run_until(found->place));
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
  const std::lock_guard lock(machine().mutex);
  if (const cudaError_t error = standing_error(); error != cudaSuccess) return remembered(error);
  CUevent_st* found = Machine::find(event);
  if (found == nullptr) return remembered(cudaErrorInvalidResourceHandle);
  if (found->capture != 0) return remembered(cudaErrorCapturedEvent);
  if (Machine::is_reached(found->place)) return cudaSuccess;
  if (found->queries++ == 0) return cudaErrorNotReady;
  return remembered(machine().run_until(found->place));
}

cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t start, cudaEvent_t end) {
  const std::lock_guard lock(machine().mutex);
  if (const cudaError_t error = standing_error(); error != cudaSuccess) return remembered(error);
  const CUevent_st* from = Machine::find(start);
  const CUevent_st* to = Machine::find(end);
  if (milliseconds == nullptr) return remembered(cudaErrorInvalidValue);
  if (from == nullptr || to == nullptr) return remembered(cudaErrorInvalidResourceHandle);
  if (from->capture != 0 || to->capture != 0) return remembered(cudaErrorCapturedEvent);
  const bool recorded = from->place.stream != nullptr && to->place.stream != nullptr;
  if (!recorded || !from->has_time || !to->has_time) return remembered(cudaErrorInvalidResourceHandle);
  if (!Machine::is_reached(from->place) || !Machine::is_reached(to->place)) return cudaErrorNotReady;
  *milliseconds = std::chrono::duration<float, std::milli>(to->time - from->time).count();
  return cudaSuccess;
}
