#include "model/router.hpp"

#include <algorithm>

namespace vitrail {

namespace {

void route(Ops& ops, const ModelConfig& c, ConstTensor logits, ConstTensor noise, const Activations& acts,
           MoeActivations& moe) {
  const double sigma = router_noise_deviation(c);
  const ConstTensor valid = acts.masked ? ConstTensor(acts.valid) : ConstTensor();
  if (acts.forced) {
    ops.route_as_given({.logits = logits,
                        .noise = noise,
                        .noise_std = sigma,
                        .selected = moe.selected,
                        .gates_clean = moe.gates_clean,
                        .gates = moe.gates,
                        .gate = moe.gate});
  } else if (c.router.kind == RouterKind::experts_choice) {
    ops.route_experts_choice({.logits = logits,
                              .noise = noise,
                              .noise_std = sigma,
                              .valid = valid,
                              .capacity = c.slots(),
                              .gates_clean = moe.gates_clean,
                              .gates = moe.gates,
                              .selected = moe.selected,
                              .slot = moe.slot});
  } else {
    const std::int64_t first_token = acts.random.first_leaf * acts.shape.leaf_images * c.tokens();
    ops.route_top_k({.logits = logits,
                     .noise = noise,
                     .noise_std = sigma,
                     .valid = valid,
                     .order = c.router.order,
                     .draw = {acts.random.seed, acts.random.step, static_cast<std::uint32_t>(moe.block),
                              static_cast<std::uint64_t>(first_token)},
                     .gates_clean = moe.gates_clean,
                     .gates = moe.gates,
                     .selected = moe.selected,
                     .slot = moe.slot,
                     .gate = moe.gate});
  }
  if (c.router.kind != RouterKind::top_k) return;
  ops.router_losses_forward({.logits = logits,
                             .noise = noise,
                             .noise_std = sigma,
                             .gates_clean = moe.gates_clean,
                             .gates = moe.gates,
                             .selected = moe.selected,
                             .valid = valid,
                             .importance = moe.importance,
                             .load = moe.load,
                             .gshard = moe.gshard,
                             .z = moe.z});
}

/// The logits, those of a router that is replaced by random choices shuffled.
ConstTensor logits_of(Ops& ops, const ModelConfig& c, Mode mode, const Activations& acts, const MoeActivations& moe) {
  const auto& random = c.router.random_blocks;
  if (std::find(random.begin(), random.end(), moe.block) == random.end()) return moe.logits;
  VITRAIL_EXPECT(mode == Mode::evaluation, ExitCode::usage, text("random choices in block ", moe.block),
                 "they have no gradient: evaluation only", "");
  const std::int64_t tokens = moe.logits.elements() / c.experts;
  const std::int64_t first_token = acts.random.first_leaf * acts.shape.leaf_images * c.tokens();
  ops.shuffle_experts({.x = moe.logits.view({tokens, c.experts}),
                       .draw = {acts.random.seed, acts.random.step, static_cast<std::uint32_t>(moe.block),
                                static_cast<std::uint64_t>(first_token)},
                       .y = acts.scratch.shuffled.view({tokens, c.experts})});
  return acts.scratch.shuffled;
}

}  // namespace

double router_noise_deviation(const ModelConfig& c) {
  return c.router.kind == RouterKind::soft ? c.router.noise_std : c.router.noise_std / static_cast<double>(c.experts);
}

ConstTensor router_noise(const ModelConfig& c, const MoeActivations& moe, Mode mode) {
  return mode == Mode::training && c.router.noise_std > 0 ? ConstTensor(moe.noise) : ConstTensor();
}

void router_forward(Ops& ops, const ModelConfig& c, const BlockParams& params, ConstTensor x, Mode mode,
                    const Activations& acts, MoeActivations& moe) {
  const std::int64_t leaves = x.shape[0];
  const std::int64_t n = x.shape[1];
  const std::int64_t s = c.group_tokens();
  const std::int64_t k = c.choices();
  // z = x Wr
  ops.linear_forward({.x = x.view({leaves, 1, n, c.width}),
                      .w = params.router,
                      .b = {},
                      .residual = {},
                      .y = moe.logits.view({leaves, 1, n, c.experts}),
                      .exact = true});
  route(ops, c, logits_of(ops, c, mode, acts, moe), router_noise(c, moe, mode), acts, moe);
  const Shape by_leaf{leaves, n / s, s, k};
  const Shape by_token{leaves * n, k};
  ops.map_slots({.selected = moe.selected.view(by_leaf),
                 .slot = moe.slot.view(by_leaf),
                 .capacity = c.slots(),
                 .source = moe.source,
                 .row = moe.row.view(by_leaf)});
  ops.count_assignments({.selected = moe.selected.view(by_token),
                         .slot = moe.slot.view(by_token),
                         .capacity = c.slots(),
                         .assigned = moe.assigned,
                         .kept = moe.kept,
                         .processed = moe.processed});
  if (c.router.normalize_gates) {
    ops.normalize_gates_forward(
        {.gate = moe.gate.view(by_token), .row = moe.row.view(by_token), .y = moe.weight.view(by_token)});
  }
}

void router_backward(Ops& ops, const ModelConfig& c, const BlockParams& params, ConstTensor x, double group_scale,
                     Activations& acts, MoeActivations& moe, BlockParams& gradients, Tensor dx) {
  PassScratch& scratch = acts.scratch;
  const std::int64_t leaves = x.shape[0];
  const std::int64_t n = x.shape[1];
  if (c.router.normalize_gates) {
    const Shape by_token{leaves * n, c.choices()};
    ops.normalize_gates_backward({.dy = scratch.dgate.view(by_token),
                                  .gate = moe.gate.view(by_token),
                                  .row = moe.row.view(by_token),
                                  .y = moe.weight.view(by_token),
                                  .dgate = scratch.dgate.view(by_token)});
  }
  // Experts that choose are balanced by construction: no losses.
  const double scale = c.router.kind == RouterKind::top_k ? group_scale : 0.0;
  ops.router_backward({.dgate = scratch.dgate,
                       .logits = moe.logits,
                       .noise = router_noise(c, moe, Mode::training),
                       .noise_std = router_noise_deviation(c),
                       .gates_clean = moe.gates_clean,
                       .gates = moe.gates,
                       .selected = moe.selected,
                       .importance_scale = c.router.importance_weight * scale,
                       .load_scale = c.router.load_weight * scale,
                       .gshard_scale = c.router.gshard_weight * scale,
                       .z_scale = c.router.z_weight * scale,
                       .dlogits = scratch.dlogits});
  ops.linear_backward({.dy = scratch.dlogits.view({leaves, 1, n, c.experts}),
                       .x = x.view({leaves, 1, n, c.width}),
                       .w = params.router,
                       .dresidual = {},
                       .dx = dx.view({leaves, 1, n, c.width}),
                       .dw = gradients.router,
                       .db = {},
                       .exact = true});
}

}  // namespace vitrail
