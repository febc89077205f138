#pragma once
// Clipping by global norm: one norm over all parameters of the whole model, from the block sums of every rank's slices,
// added up in the order of the table, experts and blocks. All of it stays in device memory.

#include <cstdint>
#include <vector>

#include "comm/communicator.hpp"
#include "device/arena.hpp"
#include "ops/ops.hpp"

namespace vitrail {

class TrainState;

/// Where the sums that make the norm stand. Every rank has a row of them; the rows are gathered in the order of ranks.
struct NormPlan {
  std::int64_t row = 0;               ///< places in a row
  std::vector<std::int64_t> order{};  ///< places in the gathered rows, in the order of summation
  std::vector<double> weights{};      ///< squares of the gradients' multipliers, in the same order
};

/// A row holds a rank's sums over its dense blocks, then over its experts' blocks, then over the losses of each pass,
/// which are not part of the norm.
struct StepRow {
  explicit StepRow(const TrainState& state);
  std::int64_t expert_blocks = 0;  ///< their first place
  std::int64_t losses = 0;         ///< their first place
  std::int64_t places = 0;
};
NormPlan norm_plan(const TrainState& state);

class GlobalClip {
 public:
  GlobalClip(Arena& arena, Device& device, const NormPlan& plan, std::int64_t ranks, double clip_norm);

  /// f64 [row]: where this rank's sums of squares go; what is not written is 0.
  [[nodiscard]] Tensor row() const noexcept { return row_; }
  /// After the sums: norm, scale and halt as the verb clip_scale has them. Collective.
  void run(Ops& ops, Communicator& world) const;
  [[nodiscard]] ConstTensor scale() const noexcept { return scale_; }    // f64 [1]
  [[nodiscard]] ConstTensor halt() const noexcept { return halt_; }      // i32 [1]
  [[nodiscard]] ConstTensor result() const noexcept { return result_; }  // u8 [bytes]: all three

  struct Result {
    double norm = 0;
    double scale = 1;
    bool halted = false;
  };
  /// Of a copy of result() in host memory.
  static Result read(ConstTensor result);
  /// Waits for the device.
  void set_halt(Device& device, bool halt) const;

 private:
  double clip_norm_;
  Tensor row_;       // f64 [row]
  Tensor gathered_;  // f64 [ranks * row]; the row itself on one rank
  Tensor order_, weights_;
  Tensor result_;
  Tensor norm_, scale_, halt_;  // in it
};

}  // namespace vitrail
