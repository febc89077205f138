#include "model/block.hpp"

namespace vitrail {

namespace {

Shape heads_shape(const ModelConfig& c, const Activations& acts) {
  return {acts.shape.leaves, acts.shape.leaf_images, c.tokens(), c.heads, c.width / c.heads};
}

/// [leaves N X] as the one block of rows that dense layers have: [leaves 1 N X].
template <class AnyTensor>
AnyTensor dense(AnyTensor x) {
  return x.view({x.shape[0], 1, x.shape[1], x.shape[2]});
}

void attention_half_forward(Ops& ops, const ModelConfig& c, const BlockParams& params, ConstTensor x,
                            const Activations& acts, BlockActivations& block) {
  AttentionActivations& a = block.attention;
  ops.layernorm_forward({.x = x,
                         .scale = params.norm0.scale,
                         .bias = params.norm0.bias,
                         .y = block.norm0.y,
                         .mean = block.norm0.mean,
                         .rstd = block.norm0.rstd});
  const AttentionParams& p = params.attention;
  ops.qkv_forward({.x = block.norm0.y,
                   .wq = p.wq,
                   .wk = p.wk,
                   .wv = p.wv,
                   .bq = p.bq,
                   .bk = p.bk,
                   .bv = p.bv,
                   .q = a.q,
                   .k = a.k,
                   .v = a.v});
  const Shape heads = heads_shape(c, acts);
  ops.attention_forward({.q = a.q.view(heads),
                         .k = a.k.view(heads),
                         .v = a.v.view(heads),
                         .out = a.out.view(heads),
                         .log_sum_exp = a.log_sum_exp});
  ops.linear_forward({.x = dense(a.out), .w = p.out.w, .b = p.out.b, .residual = dense(x), .y = dense(block.middle)});
}

void attention_half_backward(Ops& ops, const ModelConfig& c, const BlockParams& params, ConstTensor x,
                             Activations& acts, BlockActivations& block, BlockParams& gradients) {
  AttentionActivations& a = block.attention;
  PassScratch& s = acts.scratch;
  const AttentionParams& p = params.attention;
  AttentionParams& g = gradients.attention;
  ops.linear_backward({.dy = dense(s.dx),
                       .x = dense(a.out),
                       .w = p.out.w,
                       .dresidual = {},
                       .dx = dense(s.dout),
                       .dw = g.out.w,
                       .db = g.out.b});
  const Shape heads = heads_shape(c, acts);
  ops.attention_backward({.dout = s.dout.view(heads),
                          .q = a.q.view(heads),
                          .k = a.k.view(heads),
                          .v = a.v.view(heads),
                          .out = a.out.view(heads),
                          .log_sum_exp = a.log_sum_exp,
                          .dq = s.dq.view(heads),
                          .dk = s.dk.view(heads),
                          .dv = s.dv.view(heads)});
  ops.qkv_backward({.dq = s.dq,
                    .dk = s.dk,
                    .dv = s.dv,
                    .x = block.norm0.y,
                    .wq = p.wq,
                    .wk = p.wk,
                    .wv = p.wv,
                    .dx = s.dnorm,
                    .dwq = g.wq,
                    .dwk = g.wk,
                    .dwv = g.wv,
                    .dbq = g.bq,
                    .dbk = g.bk,
                    .dbv = g.bv});
  ops.layernorm_backward({.dy = s.dnorm,
                          .x = x,
                          .scale = params.norm0.scale,
                          .mean = block.norm0.mean,
                          .rstd = block.norm0.rstd,
                          .dresidual = s.dx,
                          .dx = s.dx,
                          .dscale = gradients.norm0.scale,
                          .dbias = gradients.norm0.bias});
}

}  // namespace

void block_forward(const Workers& workers, const ModelConfig& c, const BlockParams& params, ConstTensor x, Mode mode,
                   Activations& acts, BlockActivations& block) {
  Ops& ops = workers.ops;
  attention_half_forward(ops, c, params, x, acts, block);
  ops.layernorm_forward({.x = block.middle,
                         .scale = params.norm1.scale,
                         .bias = params.norm1.bias,
                         .y = block.norm1.y,
                         .mean = block.norm1.mean,
                         .rstd = block.norm1.rstd});
  if (params.router) {
    moe_forward(workers, c, params, block.norm1.y, block.middle, mode, acts, block.moe, block.x);
  } else {
    ops.mlp_forward({.x = dense(block.norm1.y),
                     .w1 = params.mlp0.w,
                     .b1 = params.mlp0.b,
                     .w2 = params.mlp1.w,
                     .b2 = params.mlp1.b,
                     .residual = dense(block.middle),
                     .u = block.u,
                     .h = acts.scratch.dense_h,
                     .y = dense(block.x)});
  }
}

void block_backward(const Workers& workers, const ModelConfig& c, const BlockParams& params, ConstTensor x,
                    double group_scale, Activations& acts, BlockActivations& block, BlockParams& gradients) {
  Ops& ops = workers.ops;
  PassScratch& s = acts.scratch;
  if (params.router) {
    moe_backward(workers, c, params, block.norm1.y, s.dx, group_scale, acts, block.moe, gradients, s.dnorm);
  } else {
    ops.mlp_backward({.dy = dense(s.dx),
                      .x = dense(block.norm1.y),
                      .u = block.u,
                      .w1 = params.mlp0.w,
                      .w2 = params.mlp1.w,
                      .h = s.dense_h,
                      .du = s.dense_du,
                      .dx = dense(s.dnorm),
                      .dw1 = gradients.mlp0.w,
                      .db1 = gradients.mlp0.b,
                      .dw2 = gradients.mlp1.w,
                      .db2 = gradients.mlp1.b});
  }
  ops.layernorm_backward({.dy = s.dnorm,
                          .x = block.middle,
                          .scale = params.norm1.scale,
                          .mean = block.norm1.mean,
                          .rstd = block.norm1.rstd,
                          .dresidual = s.dx,
                          .dx = s.dx,
                          .dscale = gradients.norm1.scale,
                          .dbias = gradients.norm1.bias});
  attention_half_backward(ops, c, params, x, acts, block, gradients);
}

}  // namespace vitrail
