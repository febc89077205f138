#pragma once
// Calls of the router's verbs for the tests of the reference: tensors in, everything that a verb gives out.

#include "tests/ops/gradient_check.hpp"

namespace vitrail::testing {

/// Everything that a router gives for `groups` groups.
struct Routing {
  OwnedTensor gates_clean, gates, selected, slot, gate;
};

inline Routing route(Ops& ops, const OwnedTensor& logits, const OwnedTensor& noise, double sigma, std::int64_t choices,
                     TokenOrder order = TokenOrder::vanilla, const OwnedTensor& valid = {}) {
  const Shape& shape = logits.shape();
  const Shape chosen{shape[0], shape[1], choices};
  Routing r{OwnedTensor(ops.real(), shape), OwnedTensor(ops.real(), shape), OwnedTensor(Dtype::i32, chosen),
            OwnedTensor(Dtype::i32, chosen), OwnedTensor(ops.real(), chosen)};
  ops.route_top_k({.logits = logits,
                   .noise = noise,
                   .noise_std = sigma,
                   .valid = valid,
                   .order = order,
                   .gates_clean = r.gates_clean,
                   .gates = r.gates,
                   .selected = r.selected,
                   .slot = r.slot,
                   .gate = r.gate});
  return r;
}

/// Gates that are given are taken as they are: rows need not sum to 1.
inline Routing route_gates(Ops& ops, const OwnedTensor& gates, std::int64_t choices, TokenOrder order,
                           const RouterDraw& draw = {}) {
  const Shape chosen{gates.shape()[0], gates.shape()[1], choices};
  Routing r{
      {}, gates, OwnedTensor(Dtype::i32, chosen), OwnedTensor(Dtype::i32, chosen), OwnedTensor(ops.real(), chosen)};
  ops.route_top_k({.logits = {},
                   .noise = {},
                   .valid = {},
                   .order = order,
                   .draw = draw,
                   .gates_clean = {},
                   .gates = r.gates,
                   .selected = r.selected,
                   .slot = r.slot,
                   .gate = r.gate});
  return r;
}

/// Experts choose: a token's choice e is expert e, so K = E and `gate` is `gates`. Without logits `gates` are taken.
inline Routing choose_tokens(Ops& ops, const OwnedTensor& logits, const OwnedTensor& noise, double sigma,
                             const OwnedTensor& gates, std::int64_t capacity, const OwnedTensor& valid = {}) {
  const Shape& shape = logits ? logits.shape() : gates.shape();
  Routing r{logits ? OwnedTensor(ops.real(), shape) : OwnedTensor(),
            logits ? OwnedTensor(ops.real(), shape) : gates,
            OwnedTensor(Dtype::i32, shape),
            OwnedTensor(Dtype::i32, shape),
            {}};
  ops.route_experts_choice({.logits = logits,
                            .noise = noise,
                            .noise_std = sigma,
                            .valid = valid,
                            .capacity = capacity,
                            .gates_clean = r.gates_clean,
                            .gates = r.gates,
                            .selected = r.selected,
                            .slot = r.slot});
  r.gate = r.gates;
  return r;
}

/// importance, load, gshard and z of every group
inline Tensors losses(Ops& ops, const OwnedTensor& logits, const OwnedTensor& noise, double sigma, const Routing& r,
                      const OwnedTensor& valid = {}) {
  Tensors out;
  for (const char* name : {"importance", "load", "gshard", "z"})
    out[name] = OwnedTensor(ops.real(), Shape{logits.shape()[0]});
  ops.router_losses_forward({.logits = logits,
                             .noise = noise,
                             .noise_std = sigma,
                             .gates_clean = r.gates_clean,
                             .gates = r.gates,
                             .selected = r.selected,
                             .valid = valid,
                             .importance = out["importance"],
                             .load = out["load"],
                             .gshard = out["gshard"],
                             .z = out["z"]});
  return out;
}

/// What the losses count with in router_backward.
struct LossScales {
  double importance = 0.0, load = 0.0, gshard = 0.0, z = 0.0;
};

/// Gradient of the logits, through the gates at `selected` and through the losses.
inline OwnedTensor logits_gradient(Ops& ops, const OwnedTensor& logits, const OwnedTensor& noise, double sigma,
                                   const Routing& r, const OwnedTensor& dgate, const LossScales& scales) {
  OwnedTensor dlogits(ops.real(), logits.shape());
  ops.router_backward({.dgate = dgate,
                       .logits = logits,
                       .noise = noise,
                       .noise_std = sigma,
                       .gates_clean = r.gates_clean,
                       .gates = r.gates,
                       .selected = r.selected,
                       .importance_scale = scales.importance,
                       .load_scale = scales.load,
                       .gshard_scale = scales.gshard,
                       .z_scale = scales.z,
                       .dlogits = dlogits});
  return dlogits;
}

inline OwnedTensor zeros(Shape shape) {
  OwnedTensor tensor(Dtype::f64, shape);
  for (std::int64_t i = 0; i < tensor.elements(); ++i) tensor.set(i, 0.0);
  return tensor;
}

}  // namespace vitrail::testing
