#pragma once
// The collective verbs. A communicator moves bytes and never adds floats: every floating-point sum over ranks is an
// exchange followed by a sum in a fixed order (train/gradient_sync), so that results do not depend on the layout.
// All ranks of a communicator call the same verbs in the same order with the same shapes and dtypes.
//
// Tensors are host memory here; a communicator for device memory is a subclass of its own.

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "device/tensor.hpp"

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

/// One rank; every verb has its real meaning (all_to_all copies).
std::unique_ptr<Communicator> make_self_communicator();

/// Decorator: before each collective the ranks agree on its name, number, root, shape and dtype (finish_all_to_all
/// counts as one, too); on a mismatch every rank throws an Error that shows both. What it splits off is checked as
/// well. `inner` must outlive it. Costs one small all_gather per collective.
std::unique_ptr<Communicator> make_checked_communicator(Communicator& inner);

}  // namespace vitrail
