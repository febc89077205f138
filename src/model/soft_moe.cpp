#include "model/soft_moe.hpp"

#include "model/experts.hpp"
#include "model/router.hpp"

namespace vitrail {

namespace {

Tensor flat(Tensor x) { return x.view({x.elements()}); }

/// Any [... D] as [rows D].
template <class AnyTensor>
AnyTensor rows_of(AnyTensor x, std::int64_t d) {
  return x.view({x.elements() / d, d});
}

/// [leaves N X] or [groups S X] as [leaves groups_of_a_leaf S X].
template <class AnyTensor>
AnyTensor by_leaf(const ModelConfig& c, const Activations& acts, AnyTensor x) {
  const std::int64_t s = c.group_tokens();
  const std::int64_t leaves = acts.shape.leaves;
  const std::int64_t groups = acts.shape.leaf_images * c.tokens() / s;
  return x.view({leaves, groups, s, x.elements() / (leaves * groups * s)});
}
/// The same as [groups S X].
template <class AnyTensor>
AnyTensor by_group(const ModelConfig& c, AnyTensor x, std::int64_t width) {
  const std::int64_t s = c.group_tokens();
  return x.view({x.elements() / (s * width), s, width});
}

}  // namespace

void soft_moe_forward(const Workers& workers, const ModelConfig& c, const BlockParams& params, ConstTensor x,
                      ConstTensor residual, Mode mode, Activations& acts, MoeActivations& moe, Tensor y) {
  Ops& ops = workers.ops;
  SoftActivations& soft = moe.soft;
  const std::int64_t d = c.width;
  const std::int64_t slots = c.experts * c.slots();
  const std::int64_t groups_of_leaf = acts.shape.leaf_images * c.tokens() / c.group_tokens();
  const ConstTensor noise = router_noise(c, moe, mode);
  ops.soft_router_forward(
      {.x = by_leaf(c, acts, x),
       .mu = params.slots,
       .scale = params.slots_scale,
       .noise = noise ? by_leaf(c, acts, noise) : noise,
       .noise_std = router_noise_deviation(c),
       .valid = acts.masked ? ConstTensor(acts.valid.view({acts.shape.leaves, groups_of_leaf, c.group_tokens()}))
                            : ConstTensor(),
       .x_rnorm = soft.x_rnorm.view({acts.shape.leaves, groups_of_leaf, c.group_tokens()}),
       .mu_rnorm = soft.mu_rnorm,
       .dispatch = by_leaf(c, acts, soft.dispatch),
       .combine = by_leaf(c, acts, soft.combine)});
  ops.mix_tokens_forward({.x = by_group(c, x, d), .w = soft.dispatch, .y = soft.slots_x});
  const Shape by_slot{acts.shape.leaves, groups_of_leaf, slots, 1};
  ops.map_slots({.selected = moe.selected.view(by_slot),
                 .slot = moe.slot.view(by_slot),
                 .capacity = c.slots(),
                 .source = moe.source,
                 .row = moe.row.view(by_slot)});
  ops.gather_rows_forward({.x = rows_of(soft.slots_x, d),
                           .source = flat(moe.source),
                           .choices = 1,
                           .y = rows_of(experts_input(workers, acts, moe), d)});
  experts_forward(workers, c, params, mode, acts, moe);
  // Rows back to slots: the gather backwards.
  ops.gather_rows_backward(
      {.dy = rows_of(moe.o, d), .row = rows_of(moe.row, 1), .dresidual = {}, .dx = rows_of(soft.slots_o, d)});
  ops.mix_slots_forward({.o = soft.slots_o,
                         .w = soft.combine,
                         .residual = residual ? by_group(c, residual, d) : residual,
                         .y = by_group(c, y, d)});
}

void soft_moe_backward(const Workers& workers, const ModelConfig& c, const BlockParams& params, ConstTensor x,
                       ConstTensor dy, Activations& acts, MoeActivations& moe, BlockParams& gradients, Tensor dx) {
  Ops& ops = workers.ops;
  SoftActivations& soft = moe.soft;
  PassScratch& s = acts.scratch;
  const std::int64_t d = c.width;
  const std::int64_t groups_of_leaf = acts.shape.leaf_images * c.tokens() / c.group_tokens();
  ops.mix_slots_backward(
      {.dy = by_group(c, dy, d), .o = soft.slots_o, .w = soft.combine, .dw = s.dcombine, .d_o = s.dslots});
  ops.gather_rows_forward(
      {.x = rows_of(s.dslots, d), .source = flat(moe.source), .choices = 1, .y = rows_of(moe.o, d)});
  experts_backward(workers, c, params, acts, moe, gradients);
  ops.gather_rows_backward(
      {.dy = rows_of(s.rows_home, d), .row = rows_of(moe.row, 1), .dresidual = {}, .dx = rows_of(s.dslots, d)});
  ops.mix_tokens_backward(
      {.dy = s.dslots, .x = by_group(c, x, d), .w = soft.dispatch, .dw = s.ddispatch, .dx = by_group(c, dx, d)});
  ops.soft_router_backward({.ddispatch = by_leaf(c, acts, s.ddispatch),
                            .dcombine = by_leaf(c, acts, s.dcombine),
                            .x = by_leaf(c, acts, x),
                            .mu = params.slots,
                            .scale = params.slots_scale,
                            .x_rnorm = soft.x_rnorm.view({acts.shape.leaves, groups_of_leaf, c.group_tokens()}),
                            .mu_rnorm = soft.mu_rnorm,
                            .dispatch = by_leaf(c, acts, soft.dispatch),
                            .combine = by_leaf(c, acts, soft.combine),
                            .dlogits = by_leaf(c, acts, s.ddispatch),
                            .dresidual = by_leaf(c, acts, dx),
                            .dx = by_leaf(c, acts, dx),
                            .dmu = gradients.slots,
                            .dscale = gradients.slots_scale});
}

}  // namespace vitrail
