#pragma once
// Calls of the MLP, and what its bits may depend on, for the tests of the fast back ends.

#include <vector>

#include <gtest/gtest.h>

#include "ops/cpu/bf16_blocks.hpp"
#include "ops/ops.hpp"
#include "tests/ops/leaf_parts.hpp"

namespace vitrail::testing {

struct MlpSizes {
  std::int64_t leaves, experts, rows, width, hidden;
};
/// Whether u stands in rows on every back end: the cpu back end stores those of large weights in strips.
inline bool has_rows_of_u(std::int64_t width, std::int64_t hidden) {
  return width * hidden <= 1 << 16 || hidden % cpu::kStrip != 0;
}
struct MlpInputs {
  OwnedTensor x, dy, w1, b1, w2, b2, hidden_mask;
  /// Leaves and experts from a first one.
  [[nodiscard]] MlpInputs of_leaf(std::int64_t leaf) const {
    return {
        part(x, 0, leaf), part(dy, 0, leaf), w1, b1, w2, b2, hidden_mask ? part(hidden_mask, 0, leaf) : OwnedTensor()};
  }
  [[nodiscard]] MlpInputs of_experts(std::int64_t first, std::int64_t count) const {
    return {part(x, 1, first, count),
            part(dy, 1, first, count),
            part(w1, 0, first, count),
            part(b1, 0, first, count),
            part(w2, 0, first, count),
            part(b2, 0, first, count),
            hidden_mask ? part(hidden_mask, 1, first, count) : OwnedTensor()};
  }
};
struct MlpOutputs {
  OwnedTensor y, u, dx;                // per leaf and expert
  std::vector<OwnedTensor> gradients;  // per expert, summed over leaves
};

inline MlpInputs mlp_inputs(Dtype stored, const MlpSizes& s, bool masked) {
  const Shape narrow{s.leaves, s.experts, s.rows, s.width};
  return {random_tensor(stored, narrow, 1),
          random_tensor(Dtype::f32, narrow, 2),
          random_tensor(stored, {s.experts, s.width, s.hidden}, 3, 0.2),
          random_tensor(Dtype::f32, {s.experts, s.hidden}, 4),
          random_tensor(stored, {s.experts, s.hidden, s.width}, 5, 0.2),
          random_tensor(Dtype::f32, {s.experts, s.width}, 6),
          masked ? random_tensor(Dtype::f32, {s.leaves, s.experts, s.rows, s.hidden}, 7) : OwnedTensor()};
}

inline MlpOutputs run_mlp(Ops& ops, const MlpInputs& in) {
  const Shape& narrow = in.x.shape();
  const Shape wide{narrow[0], narrow[1], narrow[2], in.w1.shape()[2]};
  const Dtype stored = in.x.dtype();
  OwnedTensor h(stored, wide), du(stored, wide);
  MlpOutputs out{OwnedTensor(Dtype::f32, narrow), OwnedTensor(stored, wide), OwnedTensor(stored, narrow), {}};
  for (const OwnedTensor* parameter : {&in.w1, &in.b1, &in.w2, &in.b2})
    out.gradients.emplace_back(Dtype::f32, parameter->shape());
  MlpForward forward{
      .x = in.x, .w1 = in.w1, .b1 = in.b1, .w2 = in.w2, .b2 = in.b2, .residual = in.dy, .u = out.u, .h = h, .y = out.y};
  if (in.hidden_mask) forward.hidden_mask = in.hidden_mask;
  ops.mlp_forward(forward);
  ops.mlp_backward({.dy = in.dy,
                    .x = in.x,
                    .u = out.u,
                    .w1 = in.w1,
                    .w2 = in.w2,
                    .hidden_mask = forward.hidden_mask,
                    .h = h,
                    .du = du,
                    .dx = out.dx,
                    .dw1 = out.gradients[0],
                    .db1 = out.gradients[1],
                    .dw2 = out.gradients[2],
                    .db2 = out.gradients[3]});
  return out;
}

inline bool same_bits(const MlpOutputs& a, const MlpOutputs& b) {
  bool same = same_bits(a.y, b.y) && same_bits(a.u, b.u) && same_bits(a.dx, b.dx);
  for (std::size_t i = 0; i < a.gradients.size(); ++i) same = same && same_bits(a.gradients[i], b.gradients[i]);
  return same;
}

/// With four leaves: a leaf's bits are those that it has alone, and gradients are the tree over the leaves.
inline void expect_leaves_apart(Ops& ops, const MlpInputs& in) {
  const MlpOutputs together = run_mlp(ops, in);
  std::vector<MlpOutputs> alone;
  for (std::int64_t leaf = 0; leaf < 4; ++leaf) {
    alone.push_back(run_mlp(ops, in.of_leaf(leaf)));
    EXPECT_TRUE(same_bits(part(together.y, 0, leaf), alone.back().y)) << "y of leaf " << leaf;
    EXPECT_TRUE(same_bits(part(together.dx, 0, leaf), alone.back().dx)) << "dx of leaf " << leaf;
  }
  for (std::size_t i = 0; i < together.gradients.size(); ++i) {
    const OwnedTensor tree =
        sum(sum(alone[0].gradients[i], alone[1].gradients[i]), sum(alone[2].gradients[i], alone[3].gradients[i]));
    EXPECT_TRUE(same_bits(together.gradients[i], tree)) << "gradient " << i;
  }
}

/// With four experts: the bits of one, and of two, are those that they have alone.
inline void expect_experts_apart(Ops& ops, const MlpInputs& in) {
  const MlpOutputs together = run_mlp(ops, in);
  for (const std::int64_t count : {1, 2}) {
    for (std::int64_t first = 0; first < 4; first += count) {
      const MlpOutputs some = run_mlp(ops, in.of_experts(first, count));
      EXPECT_TRUE(same_bits(part(together.y, 1, first, count), some.y)) << "y of expert " << first;
      EXPECT_TRUE(same_bits(part(together.dx, 1, first, count), some.dx)) << "dx of expert " << first;
      for (std::size_t i = 0; i < some.gradients.size(); ++i)
        EXPECT_TRUE(same_bits(part(together.gradients[i], 0, first, count), some.gradients[i])) << "gradient " << i;
    }
  }
}

}  // namespace vitrail::testing
