#pragma once
// The collective verbs. A communicator moves bytes and never adds floats: every floating-point sum over ranks is an
// exchange followed by a sum in a fixed order (train/gradient_sync), so that results do not depend on the layout.
// All ranks of a communicator call the same verbs in the same order with the same shapes and dtypes.
//
// Every communicator takes host memory. `staged` and `nccl` take the memory of their device, too, and `self` that of
// the device it was made for: their verbs take their turn in the device's queue, like all work on its tensors. So what
// was called before is done before the bytes leave, and what is called later sees those that came; the host may go on
// earlier. Both tensors of a call are of one kind.

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/activity.hpp"
#include "device/device.hpp"

namespace vitrail {

class Communicator {
 public:
  Communicator() = default;
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;
  virtual ~Communicator() = default;

  [[nodiscard]] virtual int rank() const noexcept = 0;
  [[nodiscard]] virtual int size() const noexcept = 0;

  /// Returns when every rank has called it.
  virtual void barrier() = 0;
  /// `data` of rank `root` arrives in `data` of all ranks.
  virtual void broadcast(Tensor data, int root) = 0;
  /// `from` [n...] of every rank arrives in rank order in `to`, which has size() times its elements. `from` lies
  /// outside `to`, or is exactly the own part of it.
  virtual void all_gather(ConstTensor from, Tensor to) = 0;
  /// Part r of size() equal parts of `from` goes to rank r; part r of `to` came from rank r. Not in place.
  /// Equal to start_all_to_all followed by finish_all_to_all.
  void all_to_all(ConstTensor from, Tensor to);
  /// The same in two halves: neither tensor may be touched between them. At most one exchange is in flight per
  /// communicator.
  virtual void start_all_to_all(ConstTensor from, Tensor to) = 0;
  virtual void finish_all_to_all() = 0;
  /// Elementwise over ranks, in place. Integers only: these are exact in any order.
  virtual void all_min(std::span<std::int64_t> values) = 0;
  virtual void all_max(std::span<std::int64_t> values) = 0;
  virtual void all_sum(std::span<std::int64_t> values) = 0;
  /// The ranks that pass the same colour form a new communicator, in the order of their ranks here. Collective.
  virtual std::unique_ptr<Communicator> split(int colour) = 0;

  /// Strings of every rank, in rank order, on every rank. For start-up and reports.
  std::vector<std::string> all_gather_strings(const std::string& mine);
};

/// One rank; every verb has its real meaning (all_to_all copies). Takes tensors of `device`, which outlives it, too.
std::unique_ptr<Communicator> make_self_communicator(Device* device = nullptr);

/// The ranks of `inner` with tensors of `device`, too: they travel through page-locked host memory, and `inner` sees
/// host memory alone. So several ranks can share one GPU, and no library must know GPUs. A verb on device memory waits
/// for the device's queue. The host memory grows to the largest tensors seen. Cannot be recorded (Device::submit).
/// What it splits off is staged as well. `inner` and `device` must outlive it.
std::unique_ptr<Communicator> make_staged_communicator(Communicator& inner, Device& device);

/// The ranks of `inner`, each with a GPU of its own: their tensors travel through NCCL in the queue of `device`, host
/// tensors and integers through `inner`. Collective. `inner` and `device` must outlive it. Error (usage) when this
/// build has no NCCL or two ranks share a GPU; Error (other) with NCCL's own words when it fails, or when the ranks do
/// not meet within two minutes.
std::unique_ptr<Communicator> make_nccl_communicator(Communicator& inner, Device& device);
/// Whether this build has NCCL.
bool nccl_is_built() noexcept;

/// Decorator: before each collective the ranks agree on its name, number, root, shape and dtype (finish_all_to_all
/// counts as one, too); on a mismatch every rank throws an Error that shows both. What it splits off is checked as
/// well. `inner` must outlive it. Costs one small all_gather per collective.
std::unique_ptr<Communicator> make_checked_communicator(Communicator& inner);

/// Decorator: marks in `activity` which collective this rank is in, and counts them (start_all_to_all and
/// finish_all_to_all are one each), so that equal numbers on two ranks mean the same call. An Error that leaves a
/// collective names it. What it splits off is watched as well and counts on. `inner` and `activity` must outlive it;
/// nothing but a few stores is added to a call. It stands above all others: those call each other.
std::unique_ptr<Communicator> make_watched_communicator(Communicator& inner, Activity& activity);

}  // namespace vitrail
