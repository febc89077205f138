#include "model/block.hpp"

#include "model/attention.hpp"
#include "model/dropout.hpp"

namespace vitrail {

namespace {

/// [leaves N X] as the one block of rows that dense layers have: [leaves 1 N X].
template <class AnyTensor>
AnyTensor dense(AnyTensor x) {
  return x.view({x.shape[0], 1, x.shape[1], x.shape[2]});
}
Tensor flat(Tensor x) { return x.view({x.elements()}); }
ConstTensor flat(ConstTensor x) { return x.view({x.elements()}); }

/// What a branch goes through before it joins the residual stream: a dropout of elements and one of whole images.
struct BranchDropout {
  DropoutDraw elements, images;
  [[nodiscard]] bool active() const { return elements.rate > 0 || images.rate > 0; }

  /// y = residual + dropped y.
  void join(Ops& ops, ConstTensor residual, Tensor y) const {
    if (elements.rate > 0) ops.dropout({.x = flat(y), .residual = {}, .draw = elements, .y = flat(y)});
    ops.dropout({.x = flat(y), .residual = flat(residual), .draw = images, .y = flat(y)});
  }
  /// The gradient of the branch from that of the stream: `dy` itself when nothing is dropped, else `dbranch`.
  [[nodiscard]] ConstTensor backward(Ops& ops, ConstTensor dy, Tensor dbranch) const {
    if (!active()) return dy;
    ops.dropout({.x = flat(dy), .residual = {}, .draw = images, .y = flat(dbranch)});
    if (elements.rate > 0) {
      ops.dropout({.x = flat(dbranch), .residual = {}, .draw = elements, .y = flat(dbranch)});
    }
    return dbranch;
  }
};

BranchDropout attention_branch(const ModelConfig& c, const Activations& acts, std::int64_t block, Mode mode) {
  if (mode == Mode::evaluation) return {};
  return {token_dropout(c, acts, block, DropoutPlace::attention_output, c.width),
          depth_dropout(c, acts, block, DropoutPlace::attention_depth)};
}
/// Experts drop their outputs themselves (model/experts).
BranchDropout mlp_branch(const ModelConfig& c, const Activations& acts, std::int64_t block, Mode mode) {
  if (mode == Mode::evaluation) return {};
  return {c.is_moe(block) ? DropoutDraw{} : token_dropout(c, acts, block, DropoutPlace::output, c.width),
          depth_dropout(c, acts, block, DropoutPlace::mlp_depth)};
}

DropoutDraw probabilities(const ModelConfig& c, const Activations& acts, std::int64_t block, Mode mode) {
  return mode == Mode::evaluation ? DropoutDraw{} : attention_dropout(c, acts, block);
}

/// The mask of the hidden channels of a dense MLP, none without a dropout.
ConstTensor hidden_mask(Ops& ops, const ModelConfig& c, const Activations& acts, std::int64_t block, Mode mode) {
  if (mode == Mode::evaluation || c.dropout <= 0) return {};
  const Tensor mask = acts.scratch.dense_mask;
  const DropoutDraw draw = token_dropout(c, acts, block, DropoutPlace::hidden, c.mlp_width);
  ops.dropout({.x = {}, .residual = {}, .draw = draw, .y = flat(mask)});
  return mask;
}

void attention_half_forward(Ops& ops, const ModelConfig& c, const BlockParams& params, ConstTensor x, Mode mode,
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
  attention_forward(ops, c, p, acts, probabilities(c, acts, block.index, mode), a);
  const BranchDropout branch = attention_branch(c, acts, block.index, mode);
  ops.linear_forward({.x = dense(a.out),
                      .w = p.out.w,
                      .b = p.out.b,
                      .residual = branch.active() ? ConstTensor() : dense(x),
                      .y = dense(block.middle)});
  if (branch.active()) branch.join(ops, x, block.middle);
}

void attention_half_backward(Ops& ops, const ModelConfig& c, const BlockParams& params, ConstTensor x,
                             Activations& acts, BlockActivations& block, BlockParams& gradients) {
  AttentionActivations& a = block.attention;
  PassScratch& s = acts.scratch;
  const AttentionParams& p = params.attention;
  AttentionParams& g = gradients.attention;
  const ConstTensor dbranch = attention_branch(c, acts, block.index, Mode::training).backward(ops, s.dx, s.dbranch);
  ops.linear_backward({.dy = dense(dbranch),
                       .x = dense(a.out),
                       .w = p.out.w,
                       .dresidual = {},
                       .dx = dense(s.dout),
                       .dw = g.out.w,
                       .db = g.out.b});
  attention_backward(ops, c, p, acts, probabilities(c, acts, block.index, Mode::training), a, s.dout, s.dq, s.dk, s.dv,
                     g);
  ops.qkv_backward({.dq = s.dq,
                    .dk = s.dk,
                    .dv = s.dv,
                    .x = block.norm0.y,
                    .wq = p.wq,
                    .wk = p.wk,
                    .wv = p.wv,
                    .dx = s.dnorm_stored,
                    .dwq = g.wq,
                    .dwk = g.wk,
                    .dwv = g.wv,
                    .dbq = g.bq,
                    .dbk = g.bk,
                    .dbv = g.bv});
  ops.layernorm_backward({.dy = s.dnorm_stored,
                          .x = x,
                          .scale = params.norm0.scale,
                          .mean = block.norm0.mean,
                          .rstd = block.norm0.rstd,
                          .dresidual = s.dx,
                          .dx = s.dx,
                          .dscale = gradients.norm0.scale,
                          .dbias = gradients.norm0.bias});
}

/// u = x w1 + b1 once more.
void hidden_layer_again(Ops& ops, const ModelConfig& c, const BlockParams& params, BlockActivations& block) {
  const bool moe = c.is_moe(block.index);
  ops.mlp_forward({.x = moe ? ConstTensor(block.moe.expert_x) : dense(ConstTensor(block.norm1.y)),
                   .w1 = params.mlp0.w,
                   .b1 = params.mlp0.b,
                   .u = moe ? block.moe.expert_u : block.u});
}

/// What blocks share, as the forward pass of this block left it: computed again, unless no block came after it.
void restore(const Workers& workers, const ModelConfig& c, const BlockParams& params, ConstTensor x, Activations& acts,
             BlockActivations& block) {
  if (block.index + 1 == std::ssize(acts.blocks)) return;
  switch (acts.shape.recompute) {
    case Recompute::none:
      return;
    case Recompute::mlp:
      return hidden_layer_again(workers.ops, c, params, block);
    case Recompute::block:
      return block_forward(workers, c, params, x, Mode::training, acts, block);
  }
}

}  // namespace

void block_forward(const Workers& workers, const ModelConfig& c, const BlockParams& params, ConstTensor x, Mode mode,
                   Activations& acts, BlockActivations& block) {
  Ops& ops = workers.ops;
  attention_half_forward(ops, c, params, x, mode, acts, block);
  ops.layernorm_forward({.x = block.middle,
                         .scale = params.norm1.scale,
                         .bias = params.norm1.bias,
                         .y = block.norm1.y,
                         .mean = block.norm1.mean,
                         .rstd = block.norm1.rstd});
  const BranchDropout branch = mlp_branch(c, acts, block.index, mode);
  const ConstTensor residual = branch.active() ? ConstTensor() : ConstTensor(block.middle);
  if (c.is_moe(block.index)) {
    moe_forward(workers, c, params, block.norm1.y, residual, mode, acts, block.moe, block.x);
  } else {
    ops.mlp_forward({.x = dense(block.norm1.y),
                     .w1 = params.mlp0.w,
                     .b1 = params.mlp0.b,
                     .w2 = params.mlp1.w,
                     .b2 = params.mlp1.b,
                     .hidden_mask = hidden_mask(ops, c, acts, block.index, mode),
                     .residual = residual ? dense(residual) : residual,
                     .u = block.u,
                     .h = acts.scratch.dense_h,
                     .y = dense(block.x)});
  }
  if (branch.active()) branch.join(ops, block.middle, block.x);
}

void block_backward(const Workers& workers, const ModelConfig& c, const BlockParams& params, ConstTensor x,
                    double group_scale, Activations& acts, BlockActivations& block, BlockParams& gradients) {
  Ops& ops = workers.ops;
  PassScratch& s = acts.scratch;
  restore(workers, c, params, x, acts, block);
  const ConstTensor dbranch = mlp_branch(c, acts, block.index, Mode::training).backward(ops, s.dx, s.dbranch);
  if (c.is_moe(block.index)) {
    moe_backward(workers, c, params, block.norm1.y, dbranch, group_scale, acts, block.moe, gradients, s.dnorm);
  } else {
    ops.mlp_backward({.dy = dense(dbranch),
                      .x = dense(block.norm1.y),
                      .u = block.u,
                      .w1 = params.mlp0.w,
                      .w2 = params.mlp1.w,
                      .hidden_mask = hidden_mask(ops, c, acts, block.index, Mode::training),
                      .h = s.dense_h,
                      .du = s.dense_du,
                      .dx = dense(s.dnorm_stored),
                      .dw1 = gradients.mlp0.w,
                      .db1 = gradients.mlp0.b,
                      .dw2 = gradients.mlp1.w,
                      .db2 = gradients.mlp1.b,
                      .update1 = gradients.mlp0.update,
                      .update2 = gradients.mlp1.update});
  }
  ops.layernorm_backward({.dy = c.is_moe(block.index) ? s.dnorm : s.dnorm_stored,
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
