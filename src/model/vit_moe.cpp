#include "model/vit_moe.hpp"

#include "device/host_values.hpp"
#include "model/dropout.hpp"
#include "model/head.hpp"

namespace vitrail {

namespace {

/// The residual stream that enters a block, or, behind the last one, the head.
ConstTensor input_of(const Activations& acts, std::size_t block) {
  return block == 0 ? acts.x0 : acts.blocks[block - 1].x;
}

/// The dropout behind the position embedding, in place; of the stream or of its gradient.
void drop_embedding(Ops& ops, const ModelConfig& c, const Activations& acts, Tensor x) {
  if (c.dropout <= 0) return;
  const Tensor flat = x.view({x.elements()});
  ops.dropout(
      {.x = flat, .residual = {}, .draw = token_dropout(c, acts, 0, DropoutPlace::embedding, c.width), .y = flat});
}

void embed_forward(Ops& ops, const ModelConfig& c, const VitMoeParams& params, Mode mode, Activations& acts) {
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
                            .positions = params.positions ? params.positions : acts.positions,
                            .x = acts.x0.view({leaves, b, c.tokens(), c.width})});
  if (mode == Mode::training) drop_embedding(ops, c, acts, acts.x0);
}

void embed_backward(Ops& ops, const ModelConfig& c, const VitMoeParams& params, Activations& acts,
                    VitMoeParams& gradients) {
  const std::int64_t leaves = acts.shape.leaves;
  const std::int64_t b = acts.shape.leaf_images;
  drop_embedding(ops, c, acts, acts.scratch.dx);
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

}  // namespace

void vit_moe_forward(const Workers& workers, const ModelConfig& c, const VitMoeParams& params, Mode mode,
                     Activations& acts) {
  embed_forward(workers.ops, c, params, mode, acts);
  Activity& activity = workers.ops.activity();
  for (std::size_t block = 0; block < acts.blocks.size(); ++block) {
    activity.layer(static_cast<std::int64_t>(block));
    block_forward(workers, c, params.blocks[block], input_of(acts, block), mode, acts, acts.blocks[block]);
  }
  activity.layer(Activity::kNoLayer);
  head_forward(workers.ops, c, params, input_of(acts, acts.blocks.size()), acts);
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
  head_backward(workers.ops, c, params, input_of(acts, acts.blocks.size()), acts, gradients);
  Activity& activity = workers.ops.activity();
  for (std::size_t block = acts.blocks.size(); block-- > 0;) {
    activity.layer(static_cast<std::int64_t>(block));
    block_backward(workers, c, params.blocks[block], input_of(acts, block), group_scale, acts, acts.blocks[block],
                   gradients.blocks[block]);
  }
  activity.layer(Activity::kNoLayer);
  embed_backward(workers.ops, c, params, acts, gradients);
}

void draw_router_noise(Ops& ops, const ModelConfig& c, Activations& acts) {
  if (c.router.noise_std <= 0) return;
  const std::int64_t first_token = acts.random.first_leaf * acts.shape.leaf_images * c.tokens();
  for (const std::int64_t block : c.moe_blocks) {
    const Tensor noise = acts.blocks[static_cast<std::size_t>(block)].moe.noise;
    ops.random_normal({.seed = acts.random.seed,
                       .purpose = Purpose::router_noise,
                       .step = acts.random.step,
                       .layer = static_cast<std::uint32_t>(block),
                       .first_index = static_cast<std::uint64_t>(first_token * noise.shape[2]),
                       .y = noise.view({noise.elements()})});
  }
}

std::optional<std::string> first_not_finite(Device& device, Ops& ops, const Activations& acts) {
  Arena arena("flag", device, 64);
  const Tensor flag = arena.allocate(Dtype::i32, {1});
  const auto finite = [&](ConstTensor x) {
    ops.all_finite({.x = x.view({x.elements()}), .finite = flag});
    return to_doubles(device, flag).front() != 0;
  };
  if (!finite(acts.images)) return "the input images";
  if (!finite(acts.x0)) return "the embedding";
  const bool halves = acts.shape.recompute != Recompute::block;  // else a block's middle is not its own
  for (std::size_t block = 0; block < acts.blocks.size(); ++block) {
    const auto place = [&](const char* half) { return text("encoderblock_", block, halves ? half : ""); };
    if (halves && !finite(acts.blocks[block].middle)) return place(" (attention)");
    const MoeActivations& moe = acts.blocks[block].moe;
    for (const Tensor& loss : {moe.importance, moe.load, moe.gshard, moe.z}) {
      if (loss && !finite(loss)) return place(" (router)");
    }
    if (!finite(acts.blocks[block].x)) return place(" (MLP or experts)");
  }
  if (!finite(acts.logits)) return "the head";
  if (!finite(acts.loss)) return "the loss";
  return std::nullopt;
}

}  // namespace vitrail
