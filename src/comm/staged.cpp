#include <algorithm>
#include <cstddef>
#include <memory>
#include <utility>

#include "comm/arguments.hpp"
#include "comm/over_host.hpp"

namespace vitrail {

namespace {

// A block of page-locked host memory that grows.
class StagingBlock {
 public:
  explicit StagingBlock(Device& device) : device_(device) {}
  StagingBlock(const StagingBlock&) = delete;
  StagingBlock& operator=(const StagingBlock&) = delete;
  ~StagingBlock() { device_.release_host(memory_, capacity_); }

  /// A host tensor like `tensor`, not initialised. Returns when the uploads from this block are done.
  Tensor like(ConstTensor tensor) {
    device_.wait(busy_until_);
    if (tensor.bytes() > capacity_) {
      device_.release_host(std::exchange(memory_, nullptr), std::exchange(capacity_, 0));
      memory_ = device_.allocate_host(tensor.bytes());
      capacity_ = tensor.bytes();
    }
    return {memory_, tensor.shape, tensor.dtype};
  }
  /// Starts a copy of what like() gave. Nothing that was called before `free` uses `to` later.
  void upload(ConstTensor staged, Tensor to, Device::Place free) {
    device_.upload(staged, to, free);
    busy_until_ = device_.place();
  }

 private:
  Device& device_;
  void* memory_ = nullptr;
  std::int64_t capacity_ = 0;
  Device::Place busy_until_ = 0;
};

class StagedCommunicator final : public OverHostCommunicator {
 public:
  /// `inner`: a Communicator&, or a unique_ptr of one to keep.
  template <class Inner>
  StagedCommunicator(Inner&& inner, Device& device)
      : OverHostCommunicator(std::forward<Inner>(inner)),
        device_(device),
        sent_(device),
        received_(device),
        gathered_(device) {}

  void broadcast(Tensor data, int root) override;
  void all_gather(ConstTensor from, Tensor to) override;
  void start_all_to_all(ConstTensor from, Tensor to) override;
  void finish_all_to_all() override;
  std::unique_ptr<Communicator> split(int colour) override {
    return std::make_unique<StagedCommunicator>(inner().split(colour), device_);
  }

 private:
  // Waits for the queue and what it wrote. The place is behind all that used the tensors of this call so far.
  Device::Place download(ConstTensor from, Tensor staged) {
    device_.download(from, staged);
    const Device::Place here = device_.place();
    device_.wait(here);
    return here;
  }

  Device& device_;
  // An exchange in flight keeps the first two; the other verbs, which may run meanwhile, use the third.
  StagingBlock sent_, received_, gathered_;
  bool in_flight_ = false;
  Tensor to_;               // of the exchange in flight, when it is device memory
  Tensor staged_to_;        // where its bytes arrive
  Device::Place free_ = 0;  // behind the last use of it
};

void StagedCommunicator::broadcast(Tensor data, int root) {
  if (data.device == DeviceKind::cpu) return inner().broadcast(data, root);
  check_broadcast(data, root, size(), Reach::device_too);
  const Tensor staged = gathered_.like(data);
  if (rank() == root) download(data, staged);
  inner().broadcast(staged, root);
  if (rank() != root) gathered_.upload(staged, data, device_.place());
}

void StagedCommunicator::all_gather(ConstTensor from, Tensor to) {
  if (from.device == DeviceKind::cpu && to.device == DeviceKind::cpu) return inner().all_gather(from, to);
  static_cast<void>(check_all_gather(from, to, rank(), size(), Reach::device_too));
  const Tensor staged = gathered_.like(to).view({size(), from.elements()});
  const Tensor mine = staged.slice(rank(), 1);
  const Device::Place here = download(from, mine);
  inner().all_gather(mine, staged);
  gathered_.upload(staged, to, here);
}

void StagedCommunicator::start_all_to_all(ConstTensor from, Tensor to) {
  check_can_start(in_flight_);
  check_all_to_all(from, to, size(), Reach::device_too);
  if (from.device == DeviceKind::cpu) {
    inner().start_all_to_all(from, to);
    to_ = {};
  } else {
    const Tensor staged = sent_.like(from);
    free_ = download(from, staged);
    staged_to_ = received_.like(to);
    inner().start_all_to_all(staged, staged_to_);
    to_ = to;
  }
  in_flight_ = true;
}

void StagedCommunicator::finish_all_to_all() {
  check_can_finish(in_flight_);
  inner().finish_all_to_all();
  in_flight_ = false;
  // Nobody touched `to` since the start, so nothing in the queue is waited for.
  if (to_) received_.upload(staged_to_, to_, free_);
}

}  // namespace

std::unique_ptr<Communicator> make_staged_communicator(Communicator& inner, Device& device) {
  return std::make_unique<StagedCommunicator>(inner, device);
}

}  // namespace vitrail
