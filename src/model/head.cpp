#include "model/head.hpp"

#include "model/pooling.hpp"

namespace vitrail {

namespace {

/// [I X] as [leaves 1 B X].
template <class AnyTensor>
AnyTensor by_leaf(const Activations& acts, AnyTensor x) {
  return x.view({acts.shape.leaves, 1, acts.shape.leaf_images, x.shape[1]});
}

}  // namespace

void head_forward(Ops& ops, const ModelConfig& c, const VitMoeParams& params, ConstTensor x, Activations& acts) {
  ops.layernorm_forward({.x = x,
                         .scale = params.encoder_norm.scale,
                         .bias = params.encoder_norm.bias,
                         .y = acts.encoder_norm.y,
                         .mean = acts.encoder_norm.mean,
                         .rstd = acts.encoder_norm.rstd});
  pool_forward(ops, c, params, acts);
  if (params.pre_logits.w) {
    ops.linear_forward({.x = by_leaf(acts, acts.pooled),
                        .w = params.pre_logits.w,
                        .b = params.pre_logits.b,
                        .residual = {},
                        .y = by_leaf(acts, acts.pre_linear)});
    const Shape all{acts.pre_linear.elements()};
    ops.tanh_forward({.x = acts.pre_linear.view(all), .y = acts.pre_logits.view(all)});
  }
  ops.linear_forward({.x = by_leaf(acts, acts.pre_logits),
                      .w = params.head.w,
                      .b = params.head.b,
                      .residual = {},
                      .y = by_leaf(acts, acts.logits)});
}

void head_backward(Ops& ops, const ModelConfig& c, const VitMoeParams& params, ConstTensor x, Activations& acts,
                   VitMoeParams& gradients) {
  PassScratch& s = acts.scratch;
  const Tensor dhead_input = params.pre_logits.w ? s.dpre : s.dpooled;
  ops.linear_backward({.dy = by_leaf(acts, acts.dlogits),
                       .x = by_leaf(acts, acts.pre_logits),
                       .w = params.head.w,
                       .dresidual = {},
                       .dx = by_leaf(acts, dhead_input),
                       .dw = gradients.head.w,
                       .db = gradients.head.b});
  if (params.pre_logits.w) {
    const Shape all{s.dpre.elements()};
    ops.tanh_backward({.dy = s.dpre.view(all), .y = acts.pre_logits.view(all), .dx = s.dpre.view(all)});
    ops.linear_backward({.dy = by_leaf(acts, s.dpre),
                         .x = by_leaf(acts, acts.pooled),
                         .w = params.pre_logits.w,
                         .dresidual = {},
                         .dx = by_leaf(acts, s.dpooled),
                         .dw = gradients.pre_logits.w,
                         .db = gradients.pre_logits.b});
  }
  pool_backward(ops, c, params, acts, gradients);
  ops.layernorm_backward({.dy = s.dnorm,
                          .x = x,
                          .scale = params.encoder_norm.scale,
                          .mean = acts.encoder_norm.mean,
                          .rstd = acts.encoder_norm.rstd,
                          .dresidual = {},
                          .dx = s.dx,
                          .dscale = gradients.encoder_norm.scale,
                          .dbias = gradients.encoder_norm.bias});
}

}  // namespace vitrail
