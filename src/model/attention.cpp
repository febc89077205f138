#include "model/attention.hpp"

namespace vitrail {

namespace {

/// [leaves B*T A] as [leaves B T H Dh].
template <class AnyTensor>
AnyTensor by_head(const ModelConfig& c, const Activations& acts, AnyTensor x) {
  const std::int64_t leaves = acts.shape.leaves;
  const std::int64_t b = acts.shape.leaf_images;
  return x.view({leaves, b, x.shape[1] / b, c.heads, c.width / c.heads});
}

/// [leaves rows A] as [leaves rows*H Dh]: one row for every head.
template <class AnyTensor>
AnyTensor head_rows(const ModelConfig& c, AnyTensor x) {
  return x.view({x.shape[0], x.shape[1] * c.heads, c.width / c.heads});
}

void normalise(Ops& ops, const ModelConfig& c, const LayernormParams& params, ConstTensor x, NormActivations& norm) {
  ops.layernorm_forward({.x = head_rows(c, x),
                         .scale = params.scale,
                         .bias = {},
                         .y = head_rows(c, norm.y),
                         .mean = norm.mean,
                         .rstd = norm.rstd});
}

/// In place of the gradient of the norm's output that of its input.
void normalise_backward(Ops& ops, const ModelConfig& c, const LayernormParams& params, ConstTensor x,
                        const NormActivations& norm, Tensor dx, LayernormParams& gradients) {
  ops.layernorm_backward({.dy = head_rows(c, dx),
                          .x = head_rows(c, x),
                          .scale = params.scale,
                          .mean = norm.mean,
                          .rstd = norm.rstd,
                          .dresidual = {},
                          .dx = head_rows(c, dx),
                          .dscale = gradients.scale,
                          .dbias = {}});
}

}  // namespace

void attention_forward(Ops& ops, const ModelConfig& c, const AttentionParams& params, const Activations& acts,
                       const DropoutDraw& dropout, AttentionActivations& a) {
  if (c.qk_norm) {
    normalise(ops, c, params.query_norm, a.q, a.q_norm);
    normalise(ops, c, params.key_norm, a.k, a.k_norm);
  }
  ops.attention_forward({.q = by_head(c, acts, c.qk_norm ? a.q_norm.y : a.q),
                         .k = by_head(c, acts, c.qk_norm ? a.k_norm.y : a.k),
                         .v = by_head(c, acts, a.v),
                         .dropout = dropout,
                         .out = by_head(c, acts, a.out),
                         .log_sum_exp = a.log_sum_exp});
}

void attention_backward(Ops& ops, const ModelConfig& c, const AttentionParams& params, const Activations& acts,
                        const DropoutDraw& dropout, const AttentionActivations& a, ConstTensor dout, Tensor dq,
                        Tensor dk, Tensor dv, AttentionParams& gradients) {
  ops.attention_backward({.dout = by_head(c, acts, dout),
                          .q = by_head(c, acts, c.qk_norm ? a.q_norm.y : a.q),
                          .k = by_head(c, acts, c.qk_norm ? a.k_norm.y : a.k),
                          .v = by_head(c, acts, a.v),
                          .dropout = dropout,
                          .out = by_head(c, acts, a.out),
                          .log_sum_exp = a.log_sum_exp,
                          .dq = by_head(c, acts, dq),
                          .dk = by_head(c, acts, dk),
                          .dv = by_head(c, acts, dv)});
  if (!c.qk_norm) return;
  normalise_backward(ops, c, params.query_norm, a.q, a.q_norm, dq, gradients.query_norm);
  normalise_backward(ops, c, params.key_norm, a.k, a.k_norm, dk, gradients.key_norm);
}

}  // namespace vitrail
