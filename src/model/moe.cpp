#include "model/moe.hpp"

namespace vitrail {

namespace {

/// Rows between home ([owners, leaves, ...]) and owners ([sources, ...]): part r goes to, or came from, expert rank r.
void exchange(const Workers& workers, ConstTensor from, Tensor to) { workers.expert_ranks.all_to_all(from, to); }

/// sigma of the router's noise.
double noise_deviation(const ModelConfig& config) {
  return config.router.noise_std / static_cast<double>(config.experts);
}

ConstTensor noise_of(const ModelConfig& config, const MoeActivations& moe, Mode mode) {
  return mode == Mode::training && config.router.noise_std > 0 ? ConstTensor(moe.noise) : ConstTensor();
}

Tensor flat(Tensor x) { return x.view({x.elements()}); }

/// Any [... D] as [rows D].
template <class AnyTensor>
AnyTensor rows_of(AnyTensor x, std::int64_t d) {
  return x.view({x.elements() / d, d});
}

}  // namespace

void moe_forward(const Workers& workers, const ModelConfig& c, const BlockParams& params, ConstTensor x,
                 ConstTensor residual, Mode mode, Activations& acts, MoeActivations& moe, Tensor y) {
  Ops& ops = workers.ops;
  PassScratch& scratch = acts.scratch;
  const bool moves = workers.expert_ranks.size() > 1;
  const std::int64_t leaves = x.shape[0];
  const std::int64_t n = x.shape[1];
  const std::int64_t d = c.width;
  const std::int64_t k = c.router.selected;
  const std::int64_t s = c.group_tokens();
  const std::int64_t tokens = leaves * n;
  const ConstTensor noise = noise_of(c, moe, mode);
  const ConstTensor valid = acts.masked ? ConstTensor(acts.valid) : ConstTensor();

  // Router: z = x Wr, gates, choices, slots.
  ops.linear_forward({.x = x.view({leaves, 1, n, d}),
                      .w = params.router,
                      .b = {},
                      .residual = {},
                      .y = moe.logits.view({leaves, 1, n, c.experts})});
  ops.route_top_k({.logits = moe.logits,
                   .noise = noise,
                   .noise_std = noise_deviation(c),
                   .valid = valid,
                   .order = c.router.order,
                   .gates_clean = moe.gates_clean,
                   .gates = moe.gates,
                   .selected = moe.selected,
                   .slot = moe.slot,
                   .gate = moe.gate});
  ops.router_losses_forward({.logits = moe.logits,
                             .noise = noise,
                             .noise_std = noise_deviation(c),
                             .gates_clean = moe.gates_clean,
                             .gates = moe.gates,
                             .selected = moe.selected,
                             .valid = valid,
                             .importance = moe.importance,
                             .load = moe.load,
                             .gshard = moe.gshard,
                             .z = moe.z});
  const Shape by_leaf{leaves, n / s, s, k};
  ops.map_slots({.selected = moe.selected.view(by_leaf),
                 .slot = moe.slot.view(by_leaf),
                 .capacity = c.slots(),
                 .source = moe.source,
                 .row = moe.row.view(by_leaf)});
  ops.count_assignments({.selected = moe.selected.view({tokens, k}),
                         .slot = moe.slot.view({tokens, k}),
                         .capacity = c.slots(),
                         .assigned = moe.assigned,
                         .kept = moe.kept,
                         .processed = moe.processed});

  // Dispatch, experts, and back.
  const Tensor sent = moves ? scratch.rows_home : moe.expert_x;
  ops.gather_rows_forward({.x = x.view({tokens, d}), .source = flat(moe.source), .choices = k, .y = rows_of(sent, d)});
  if (moves) exchange(workers, sent, moe.expert_x);
  const Tensor computed = moves ? scratch.rows_owner : moe.o.view(moe.expert_x.shape);
  ops.mlp_forward({.x = moe.expert_x,
                   .w1 = params.mlp0.w,
                   .b1 = params.mlp0.b,
                   .w2 = params.mlp1.w,
                   .b2 = params.mlp1.b,
                   .residual = {},
                   .u = moe.expert_u,
                   .h = scratch.expert_h,
                   .y = computed});
  if (moves) exchange(workers, computed, moe.o);

  // Combine.
  ops.combine_rows_forward({.o = rows_of(moe.o, d),
                            .row = moe.row.view({tokens, k}),
                            .gate = moe.gate.view({tokens, k}),
                            .residual = residual.view({tokens, d}),
                            .y = y.view({tokens, d})});
}

void moe_backward(const Workers& workers, const ModelConfig& c, const BlockParams& params, ConstTensor x,
                  ConstTensor dy, double group_scale, Activations& acts, MoeActivations& moe, BlockParams& gradients,
                  Tensor dx) {
  Ops& ops = workers.ops;
  PassScratch& scratch = acts.scratch;
  const bool moves = workers.expert_ranks.size() > 1;
  const std::int64_t leaves = x.shape[0];
  const std::int64_t n = x.shape[1];
  const std::int64_t d = c.width;
  const std::int64_t k = c.router.selected;
  const std::int64_t tokens = leaves * n;

  // Combine: the gradient of the experts' outputs takes the place of the outputs.
  ops.combine_rows_backward({.dy = dy.view({tokens, d}),
                             .o = rows_of(moe.o, d),
                             .row = moe.row.view({tokens, k}),
                             .source = flat(moe.source),
                             .gate = moe.gate.view({tokens, k}),
                             .d_o = rows_of(moe.o, d),
                             .dgate = scratch.dgate.view({tokens, k})});

  // Experts, and the dispatch backwards.
  const Tensor expert_dy = moves ? scratch.rows_owner : moe.o.view(moe.expert_x.shape);
  if (moves) exchange(workers, moe.o, expert_dy);
  ops.mlp_backward({.dy = expert_dy,
                    .x = moe.expert_x,
                    .u = moe.expert_u,
                    .w1 = params.mlp0.w,
                    .w2 = params.mlp1.w,
                    .h = scratch.expert_h,
                    .du = scratch.expert_du,
                    .dx = scratch.rows_owner_dx,
                    .dw1 = gradients.mlp0.w,
                    .db1 = gradients.mlp0.b,
                    .dw2 = gradients.mlp1.w,
                    .db2 = gradients.mlp1.b});
  if (moves) exchange(workers, scratch.rows_owner_dx, scratch.rows_home);

  // Router: through the combine weights and through the losses.
  ops.router_backward({.dgate = scratch.dgate,
                       .logits = moe.logits,
                       .noise = noise_of(c, moe, Mode::training),
                       .noise_std = noise_deviation(c),
                       .gates_clean = moe.gates_clean,
                       .gates = moe.gates,
                       .selected = moe.selected,
                       .importance_scale = c.router.importance_weight * group_scale,
                       .load_scale = c.router.load_weight * group_scale,
                       .gshard_scale = c.router.gshard_weight * group_scale,
                       .z_scale = c.router.z_weight * group_scale,
                       .dlogits = scratch.dlogits});
  ops.linear_backward({.dy = scratch.dlogits.view({leaves, 1, n, c.experts}),
                       .x = x.view({leaves, 1, n, d}),
                       .w = params.router,
                       .dresidual = {},
                       .dx = dx.view({leaves, 1, n, d}),
                       .dw = gradients.router,
                       .db = {}});
  ops.gather_rows_backward({.dy = rows_of(scratch.rows_home, d),
                            .row = moe.row.view({tokens, k}),
                            .dresidual = dx.view({tokens, d}),
                            .dx = dx.view({tokens, d})});
}

}  // namespace vitrail
