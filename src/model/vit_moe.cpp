#include "model/vit_moe.hpp"

namespace vitrail {

namespace {

/// The residual stream that enters a block.
ConstTensor input_of(const Activations& acts, std::size_t block) {
  return block == 0 ? acts.x0 : acts.blocks[block - 1].x;
}

void embed_forward(Ops& ops, const ModelConfig& c, const VitMoeParams& params, Activations& acts) {
  const std::int64_t leaves = acts.shape.leaves;
  const std::int64_t b = acts.shape.leaf_images;
  ops.patches_forward({.images = acts.images,
                       .patch_rows = c.patch_rows,
                       .patch_columns = c.patch_columns,
                       .patches = acts.patches.view({leaves * b, c.patches(), acts.patches.shape[3]})});
  ops.linear_forward(
      {.x = acts.patches, .w = params.embedding.w, .b = params.embedding.b, .residual = {}, .y = acts.embedded});
  ops.embed_tokens_forward({.patches = acts.embedded.view({leaves, b, c.patches(), c.width}),
                            .class_token = params.class_token,
                            .positions = params.positions,
                            .x = acts.x0.view({leaves, b, c.tokens(), c.width})});
}

void embed_backward(Ops& ops, const ModelConfig& c, const VitMoeParams& params, Activations& acts,
                    VitMoeParams& gradients) {
  const std::int64_t leaves = acts.shape.leaves;
  const std::int64_t b = acts.shape.leaf_images;
  ops.embed_tokens_backward({.dx = acts.scratch.dx.view({leaves, b, c.tokens(), c.width}),
                             .dpatches = acts.scratch.dembedded,
                             .dclass_token = gradients.class_token,
                             .dpositions = gradients.positions});
  ops.linear_backward({.dy = acts.scratch.dembedded.view(acts.embedded.shape),
                       .x = acts.patches,
                       .w = params.embedding.w,
                       .dresidual = {},
                       .dx = {},
                       .dw = gradients.embedding.w,
                       .db = gradients.embedding.b});
}

/// [I X] as [leaves 1 B X].
template <class AnyTensor>
AnyTensor by_leaf(const Activations& acts, AnyTensor x) {
  return x.view({acts.shape.leaves, 1, acts.shape.leaf_images, x.shape[1]});
}

void head_forward(Ops& ops, const ModelConfig& c, const VitMoeParams& params, Activations& acts) {
  const ConstTensor x = acts.blocks.empty() ? acts.x0 : acts.blocks.back().x;
  ops.layernorm_forward({.x = x,
                         .scale = params.encoder_norm.scale,
                         .bias = params.encoder_norm.bias,
                         .y = acts.encoder_norm.y,
                         .mean = acts.encoder_norm.mean,
                         .rstd = acts.encoder_norm.rstd});
  const std::int64_t images = acts.pooled.shape[0];
  ops.take_token_forward({.x = acts.encoder_norm.y.view({images, c.tokens(), c.width}), .y = acts.pooled});
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

void head_backward(Ops& ops, const ModelConfig& c, const VitMoeParams& params, Activations& acts,
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
  const std::int64_t images = acts.pooled.shape[0];
  ops.take_token_backward({.dy = s.dpooled, .dx = s.dnorm.view({images, c.tokens(), c.width})});
  const ConstTensor x = acts.blocks.empty() ? acts.x0 : acts.blocks.back().x;
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

}  // namespace

void vit_moe_forward(const Workers& workers, const ModelConfig& c, const VitMoeParams& params, Mode mode,
                     Activations& acts) {
  embed_forward(workers.ops, c, params, acts);
  for (std::size_t block = 0; block < acts.blocks.size(); ++block) {
    block_forward(workers, c, params.blocks[block], input_of(acts, block), mode, acts, acts.blocks[block]);
  }
  head_forward(workers.ops, c, params, acts);
}

void vit_moe_loss(Ops& ops, Loss loss, double image_scale, bool gradient, Activations& acts) {
  const Tensor dlogits = gradient ? acts.dlogits : Tensor();
  switch (loss) {
    case Loss::softmax:
      ops.softmax_cross_entropy({.logits = acts.logits,
                                 .targets = acts.targets,
                                 .scale = image_scale,
                                 .loss = acts.loss,
                                 .dlogits = dlogits});
      break;
    case Loss::sigmoid:
      ops.sigmoid_cross_entropy({.logits = acts.logits,
                                 .targets = acts.targets,
                                 .scale = image_scale,
                                 .loss = acts.loss,
                                 .dlogits = dlogits});
      break;
  }
  ops.predict({.logits = acts.logits, .predicted = acts.predicted});
}

void vit_moe_backward(const Workers& workers, const ModelConfig& c, const VitMoeParams& params, double group_scale,
                      Activations& acts, VitMoeParams& gradients) {
  head_backward(workers.ops, c, params, acts, gradients);
  for (std::size_t block = acts.blocks.size(); block-- > 0;) {
    block_backward(workers, c, params.blocks[block], input_of(acts, block), group_scale, acts, acts.blocks[block],
                   gradients.blocks[block]);
  }
  embed_backward(workers.ops, c, params, acts, gradients);
}

void draw_router_noise(Ops& ops, const ModelConfig& c, std::uint64_t seed, std::uint64_t step, std::int64_t first_token,
                       Activations& acts) {
  if (c.router.noise_std <= 0) return;
  for (const std::int64_t block : c.moe_blocks) {
    const Tensor noise = acts.blocks[static_cast<std::size_t>(block)].moe.noise;
    ops.random_normal({.seed = seed,
                       .purpose = Purpose::router_noise,
                       .step = step,
                       .layer = static_cast<std::uint32_t>(block),
                       .first_index = static_cast<std::uint64_t>(first_token * c.experts),
                       .y = noise.view({noise.elements()})});
  }
}

std::optional<std::string> first_not_finite(Ops& ops, const Activations& acts) {
  const auto finite = [&ops](ConstTensor x) {
    std::int32_t flag = 1;
    ops.all_finite({.x = x.view({x.elements()}), .finite = Tensor(&flag, {1}, Dtype::i32)});
    return flag != 0;
  };
  if (!finite(acts.images)) return "the input images";
  if (!finite(acts.x0)) return "the embedding";
  for (std::size_t block = 0; block < acts.blocks.size(); ++block) {
    if (!finite(acts.blocks[block].middle)) return text("encoderblock_", block, " (attention)");
    const MoeActivations& moe = acts.blocks[block].moe;
    for (const Tensor& loss : {moe.importance, moe.load, moe.gshard}) {
      if (loss && !finite(loss)) return text("encoderblock_", block, " (router)");
    }
    if (!finite(acts.blocks[block].x)) return text("encoderblock_", block, " (MLP or experts)");
  }
  if (!finite(acts.logits)) return "the head";
  if (!finite(acts.loss)) return "the loss";
  return std::nullopt;
}

}  // namespace vitrail
