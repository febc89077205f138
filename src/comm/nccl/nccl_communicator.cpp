// Device tensors through NCCL: one call or one group per verb, in the device's queue.

#include <chrono>
#include <cstddef>
#include <exception>
#include <memory>
#include <source_location>
#include <string>
#include <thread>
#include <utility>

#include <nccl.h>

#include "base/error.hpp"
#include "base/unique_handle.hpp"
#include "comm/arguments.hpp"
#include "comm/over_host.hpp"
#include "device/cuda/cuda_device.hpp"

static_assert(NCCL_VERSION_CODE >= NCCL_VERSION(2, 14, 0),
              "NCCL 2.14 or later is needed: communicators that do not block");

namespace vitrail {

namespace {

using Clock = std::chrono::steady_clock;

// How long NCCL may take to bring the ranks together, or to connect them at a first verb.
constexpr std::chrono::seconds kPatience{120};
// How long the ranks may take to part. Who waits longer aborts.
constexpr std::chrono::seconds kPatienceAtTheEnd{10};

struct NcclTraits {
  using Handle = ncclComm_t;
  static constexpr Handle null = nullptr;
  static void close(Handle handle) noexcept { static_cast<void>(ncclCommAbort(handle)); }
};
using UniqueComm = UniqueHandle<NcclTraits>;

// The one place that looks at the return codes of NCCL. Some have long texts of their own.
void check(ncclResult_t rc, ncclComm_t comm, std::source_location where = std::source_location::current()) {
  if (rc == ncclSuccess) return;
  const char* details = ncclGetLastError(comm);
  fail(rc == ncclInvalidUsage ? ExitCode::usage : ExitCode::other,
       {text("NCCL failed with ", ncclGetErrorString(rc)),
        details == nullptr || *details == '\0' ? std::string("it gave no reason") : std::string(details),
        "NCCL_DEBUG=INFO shows what it did. Ranks that share a GPU need --communicator staged"},
       where);
}

// What a call came to that may go on by itself: ncclInProgress when it still does after `patience`.
ncclResult_t outcome(ncclResult_t rc, ncclComm_t comm, std::chrono::seconds patience) noexcept {
  const auto deadline = Clock::now() + patience;
  while (rc == ncclInProgress && Clock::now() < deadline) {
    std::this_thread::yield();
    const ncclResult_t asked = ncclCommGetAsyncError(comm, &rc);
    if (asked != ncclSuccess) rc = asked;
  }
  return rc;
}

// Waits for the host's part of a call; the GPU's part is in the queue then.
void settle(ncclResult_t rc, ncclComm_t comm, std::source_location where = std::source_location::current()) {
  rc = outcome(rc, comm, kPatience);
  VITRAIL_EXPECT(rc != ncclInProgress, ExitCode::other, text("NCCL was not done after ", kPatience.count(), " seconds"),
                 "the ranks did not meet: one has failed, or they cannot reach each other",
                 "NCCL_DEBUG=INFO shows what it waits for, NCCL_SOCKET_IFNAME names the network to use");
  check(rc, comm, where);
}

UniqueComm connect(Communicator& inner) {
  ncclUniqueId id{};
  if (inner.rank() == 0) check(ncclGetUniqueId(&id), nullptr);
  inner.broadcast({&id, {static_cast<std::int64_t>(sizeof id)}, Dtype::u8}, 0);
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;  // so that a rank that fails does not leave the others waiting for ever
  ncclComm_t made = nullptr;
  const ncclResult_t rc = ncclCommInitRankConfig(&made, inner.size(), id, inner.rank(), &config);
  UniqueComm comm(made);
  settle(rc, comm.get());
  return comm;
}

class NcclCommunicator final : public OverHostCommunicator {
 public:
  /// `over`: a Communicator&, or a unique_ptr of one to keep.
  template <class Inner>
  NcclCommunicator(Inner&& over, cuda::StreamDevice& device)
      : OverHostCommunicator(std::forward<Inner>(over)),
        device_(device),
        comm_(connect(inner())),
        uncaught_(std::uncaught_exceptions()) {}
  NcclCommunicator(const NcclCommunicator&) = delete;
  NcclCommunicator& operator=(const NcclCommunicator&) = delete;
  ~NcclCommunicator() override;

  void broadcast(Tensor data, int root) override;
  void all_gather(ConstTensor from, Tensor to) override;
  void start_all_to_all(ConstTensor from, Tensor to) override;
  void finish_all_to_all() override;
  // A new id, not ncclCommSplit: the ranks meet over `inner` as they did the first time.
  std::unique_ptr<Communicator> split(int colour) override {
    return std::make_unique<NcclCommunicator>(inner().split(colour), device_);
  }

 private:
  cuda::StreamDevice& device_;
  UniqueComm comm_;
  int uncaught_;
  bool in_flight_ = false;
  bool in_flight_on_host_ = false;
};

NcclCommunicator::~NcclCommunicator() {
  if (std::uncaught_exceptions() > uncaught_) return;  // the others may not come: comm_ aborts
  if (cudaStreamSynchronize(device_.stream()) != cudaSuccess) return;
  if (outcome(ncclCommFinalize(comm_.get()), comm_.get(), kPatienceAtTheEnd) != ncclSuccess) return;
  static_cast<void>(ncclCommDestroy(comm_.release()));
}

void NcclCommunicator::broadcast(Tensor data, int root) {
  if (data.device == DeviceKind::cpu) return inner().broadcast(data, root);
  check_broadcast(data, root, size(), Reach::device_too);
  settle(ncclBroadcast(data.data, data.data, static_cast<std::size_t>(data.bytes()), ncclUint8, root, comm_.get(),
                       device_.stream()),
         comm_.get());
}

void NcclCommunicator::all_gather(ConstTensor from, Tensor to) {
  if (from.device == DeviceKind::cpu && to.device == DeviceKind::cpu) return inner().all_gather(from, to);
  static_cast<void>(
      check_all_gather(from, to, rank(), size(), Reach::device_too));  // NCCL sees by itself what is in place
  settle(ncclAllGather(from.data, to.data, static_cast<std::size_t>(from.bytes()), ncclUint8, comm_.get(),
                       device_.stream()),
         comm_.get());
}

#if NCCL_VERSION_CODE >= NCCL_VERSION(2, 28, 0)
ncclResult_t exchange(ConstTensor from, Tensor to, int size, ncclComm_t comm, cudaStream_t stream) {
  return ncclAlltoAll(from.data, to.data, static_cast<std::size_t>(from.bytes() / size), ncclUint8, comm, stream);
}
#else
ncclResult_t exchange(ConstTensor from, Tensor to, int size, ncclComm_t comm, cudaStream_t stream) {
  const auto part = static_cast<std::size_t>(from.bytes() / size);
  ncclResult_t rc = ncclGroupStart();
  for (int other = 0; other < size && rc == ncclSuccess; ++other) {
    const std::size_t offset = static_cast<std::size_t>(other) * part;
    rc = ncclSend(static_cast<const std::byte*>(from.data) + offset, part, ncclUint8, other, comm, stream);
    if (rc != ncclSuccess && rc != ncclInProgress) break;
    rc = ncclRecv(static_cast<std::byte*>(to.data) + offset, part, ncclUint8, other, comm, stream);
    if (rc == ncclInProgress) rc = ncclSuccess;  // the end of the group says it again
  }
  const ncclResult_t ended = ncclGroupEnd();
  return rc == ncclSuccess ? ended : rc;
}
#endif

void NcclCommunicator::start_all_to_all(ConstTensor from, Tensor to) {
  check_can_start(in_flight_);
  check_all_to_all(from, to, size(), Reach::device_too);
  in_flight_on_host_ = from.device == DeviceKind::cpu;
  if (in_flight_on_host_) {
    inner().start_all_to_all(from, to);
  } else {
    settle(exchange(from, to, size(), comm_.get(), device_.stream()), comm_.get());
  }
  in_flight_ = true;
}

// What is called later comes after the exchange in the queue.
void NcclCommunicator::finish_all_to_all() {
  check_can_finish(in_flight_);
  if (in_flight_on_host_) inner().finish_all_to_all();
  in_flight_ = false;
}

}  // namespace

bool nccl_is_built() noexcept { return true; }

std::unique_ptr<Communicator> make_nccl_communicator(Communicator& inner, Device& device) {
  return std::make_unique<NcclCommunicator>(inner, cuda::stream_device(device));
}

}  // namespace vitrail
