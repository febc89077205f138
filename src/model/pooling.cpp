#include "model/pooling.hpp"

#include "model/attention.hpp"

namespace vitrail {

namespace {

/// [leaves rows X] as the one block of rows that dense layers have.
template <class AnyTensor>
AnyTensor dense(AnyTensor x) {
  return x.view({x.shape[0], 1, x.shape[1], x.shape[2]});
}
/// A projection [D A] as the weights of a dense layer.
Tensor one(Tensor w) { return w.view({1, w.shape[0], w.elements() / w.shape[0]}); }
Tensor one_bias(Tensor b) { return b.view({1, b.elements()}); }

/// The probe stands once in every image: a class token without patches behind it.
Tensor probes(Tensor probe) { return probe.view({probe.shape[0], probe.shape[2], 1, probe.shape[3]}); }
Tensor no_patches(const Activations& acts, const ModelConfig& c, const Tensor& like) {
  return {nullptr, {acts.shape.leaves, acts.shape.leaf_images, 0, c.width}, like.dtype, like.device};
}
/// acts.pooled and dpooled [I D] as rows of leaves.
Tensor by_leaf(const Activations& acts, Tensor pooled) {
  return pooled.view({acts.shape.leaves, 1, acts.shape.leaf_images, pooled.shape[1]});
}
Tensor rows(Tensor x) { return x.view({x.shape[0], x.shape[2], x.shape[3]}); }

// q = probe Wq + bq, k and v from all tokens; attended = attention Wo + bo; pooled = attended + MLP(LN(attended))
void map_forward(Ops& ops, const ModelConfig& c, const MapHeadParams& params, Activations& acts) {
  MapActivations& m = acts.map;
  AttentionActivations& a = m.attention;
  const AttentionParams& p = params.attention;
  ops.embed_tokens_forward(
      {.patches = no_patches(acts, c, m.probe), .class_token = params.probe, .positions = {}, .x = probes(m.probe)});
  const ConstTensor tokens = dense(acts.encoder_norm.y);
  const auto project = [&ops](ConstTensor x, Tensor w, Tensor b, Tensor y) {
    ops.linear_forward({.x = x, .w = one(w), .b = one_bias(b), .residual = {}, .y = dense(y)});
  };
  project(m.probe, p.wq, p.bq, a.q);
  project(tokens, p.wk, p.bk, a.k);
  project(tokens, p.wv, p.bv, a.v);
  attention_forward(ops, c, p, acts, {}, a);
  ops.linear_forward({.x = dense(a.out), .w = p.out.w, .b = p.out.b, .residual = {}, .y = m.attended});
  ops.layernorm_forward({.x = rows(m.attended),
                         .scale = params.norm.scale,
                         .bias = params.norm.bias,
                         .y = m.norm.y,
                         .mean = m.norm.mean,
                         .rstd = m.norm.rstd});
  ops.mlp_forward({.x = dense(m.norm.y),
                   .w1 = params.mlp0.w,
                   .b1 = params.mlp0.b,
                   .w2 = params.mlp1.w,
                   .b2 = params.mlp1.b,
                   .residual = m.attended,
                   .u = m.u,
                   .h = acts.scratch.map_h,
                   .y = by_leaf(acts, acts.pooled)});
}

void map_backward(Ops& ops, const ModelConfig& c, const MapHeadParams& params, Activations& acts,
                  MapHeadParams& gradients) {
  MapActivations& m = acts.map;
  AttentionActivations& a = m.attention;
  PassScratch& s = acts.scratch;
  const AttentionParams& p = params.attention;
  AttentionParams& g = gradients.attention;
  const Tensor dpooled = by_leaf(acts, s.dpooled);
  ops.mlp_backward({.dy = dpooled,
                    .x = dense(m.norm.y),
                    .u = m.u,
                    .w1 = params.mlp0.w,
                    .w2 = params.mlp1.w,
                    .h = s.map_h,
                    .du = s.map_du,
                    .dx = s.dattended,
                    .dw1 = gradients.mlp0.w,
                    .db1 = gradients.mlp0.b,
                    .dw2 = gradients.mlp1.w,
                    .db2 = gradients.mlp1.b});
  ops.layernorm_backward({.dy = rows(s.dattended),
                          .x = rows(m.attended),
                          .scale = params.norm.scale,
                          .mean = m.norm.mean,
                          .rstd = m.norm.rstd,
                          .dresidual = rows(dpooled),
                          .dx = rows(s.dattended),
                          .dscale = gradients.norm.scale,
                          .dbias = gradients.norm.bias});
  ops.linear_backward({.dy = s.dattended,
                       .x = dense(a.out),
                       .w = p.out.w,
                       .dresidual = {},
                       .dx = s.dmap_out,
                       .dw = g.out.w,
                       .db = g.out.b});
  attention_backward(ops, c, p, acts, {}, a, rows(s.dmap_out), rows(s.dmap_q), s.dk, s.dv, g);
  const auto project_back = [&ops](ConstTensor dy, ConstTensor x, Tensor w, Tensor dw, Tensor db, ConstTensor dresidual,
                                   Tensor dx) {
    ops.linear_backward(
        {.dy = dy, .x = x, .w = one(w), .dresidual = dresidual, .dx = dx, .dw = one(dw), .db = one_bias(db)});
  };
  project_back(s.dmap_q, m.probe, p.wq, g.wq, g.bq, {}, s.dprobe);
  ops.embed_tokens_backward({.dx = probes(s.dprobe),
                             .dpatches = no_patches(acts, c, s.dprobe),
                             .dclass_token = gradients.probe,
                             .dpositions = {}});
  const ConstTensor tokens = dense(acts.encoder_norm.y);
  const Tensor dtokens = dense(s.dnorm);
  project_back(dense(s.dk), tokens, p.wk, g.wk, g.bk, {}, dtokens);
  project_back(dense(s.dv), tokens, p.wv, g.wv, g.bv, dtokens, dtokens);
}

}  // namespace

void pool_forward(Ops& ops, const ModelConfig& c, const VitMoeParams& params, Activations& acts) {
  const std::int64_t images = acts.pooled.shape[0];
  const Tensor tokens = acts.encoder_norm.y.view({images, c.tokens(), c.width});
  switch (c.classifier) {
    case Classifier::token:
    case Classifier::first:
      return ops.take_token_forward({.x = tokens, .y = acts.pooled});
    case Classifier::gap:
      return ops.mean_tokens_forward({.x = tokens, .y = acts.pooled});
    case Classifier::map:
      return map_forward(ops, c, params.map, acts);
  }
}

void pool_backward(Ops& ops, const ModelConfig& c, const VitMoeParams& params, Activations& acts,
                   VitMoeParams& gradients) {
  PassScratch& s = acts.scratch;
  const Tensor dtokens = s.dnorm.view({acts.pooled.shape[0], c.tokens(), c.width});
  switch (c.classifier) {
    case Classifier::token:
    case Classifier::first:
      return ops.take_token_backward({.dy = s.dpooled, .dx = dtokens});
    case Classifier::gap:
      return ops.mean_tokens_backward({.dy = s.dpooled, .dx = dtokens});
    case Classifier::map:
      return map_backward(ops, c, params.map, acts, gradients.map);
  }
}

}  // namespace vitrail
