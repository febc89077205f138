#pragma once
// Sums of gradients over passes and ranks, in the one order that the leaves fix, and the way back of the parameters.
//
// A pass leaves on every rank the gradient of one unit: the subtree of leaves that the rank (for experts: the group of
// ranks that share them) took through the model. Units arrive in the order of the batch, unit i = pass * owners +
// owner. Each owner receives its slice of all units of a pass and adds them up as a binary tree:
//   ((u0 + u1) + (u2 + u3)) + ...    per tree, and the trees in order.
// Pending subtrees form a stack: accumulation costs log2(units) slices, not copies of the gradient. The
// communicator moves bytes; the only additions are here.

#include <vector>

#include "comm/communicator.hpp"
#include "device/arena.hpp"
#include "device/device.hpp"
#include "ops/ops.hpp"
#include "train/flat_layout.hpp"

namespace vitrail {

class GradientSync {
 public:
  /// `owners` are the ranks among which `layout` is shared out (owners.size() == layout.owners()). `units_per_tree` is
  /// a power of two; a step has `units` units, a multiple of it.
  GradientSync(Arena& arena, Device& device, Dtype real, const FlatLayout& layout, Communicator& owners,
               std::int64_t units_per_tree, std::int64_t units);

  /// Adds this pass's gradients. Collective over the owners. Passes are given in order; the first one of a step
  /// starts a new sum.
  void add_pass(Ops& ops, ConstTensor gradient, std::int64_t pass);
  /// This owner's slice of the sum, after the last pass of a step; valid until the next add_pass (with one pass and one
  /// owner it is the gradient itself).
  [[nodiscard]] ConstTensor slice() const { return sum_; }
  /// Sends every owner's slice of `parameters` to all owners. Collective.
  void publish(Tensor parameters);

 private:
  void push(Ops& ops, ConstTensor part, std::int64_t offset, std::int64_t unit);
  [[nodiscard]] std::int64_t bucket_elements(std::int64_t offset) const;

  Device& device_;
  const FlatLayout& layout_;
  Communicator& owners_;
  std::int64_t units_per_tree_;
  std::int64_t trees_;
  bool single_;
  FlatSlice mine_;
  std::vector<Tensor> stack_;  // pending subtrees, earliest first
  Tensor total_;               // sum of whole trees, when there are several
  Tensor send_, receive_;      // [owners, bucket]
  ConstTensor sum_;
};

}  // namespace vitrail
