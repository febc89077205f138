#include "model/activations.hpp"

#include <algorithm>

namespace vitrail {

namespace {

/// Lengths of a pass, and shorthand for its allocations.
struct Sizes {
  Arena& arena;
  Dtype real;
  const ModelConfig& c;
  std::int64_t leaves, b, t, d, a, f, n, images, groups, s, owners, experts_here, slots;

  Sizes(Arena& arena_, Dtype real_, const ModelConfig& config, const PassShape& shape)
      : arena(arena_),
        real(real_),
        c(config),
        leaves(shape.leaves),
        b(shape.leaf_images),
        t(config.tokens()),
        d(config.width),
        a(config.width),
        f(config.mlp_width),
        n(b * t),
        images(leaves * b),
        groups(0),
        s(0),
        owners(shape.expert_parallel),
        experts_here(0),
        slots(0) {
    if (c.moe_blocks.empty()) return;
    s = c.group_tokens();
    groups = leaves * n / s;
    experts_here = c.experts / owners;
    slots = n / s * c.slots();
  }
  [[nodiscard]] Tensor make(Shape shape) const { return arena.allocate(real, shape); }
  [[nodiscard]] Tensor make(Dtype dtype, Shape shape) const { return arena.allocate(dtype, shape); }
  [[nodiscard]] Shape home_rows() const { return {owners, leaves, experts_here, slots, d}; }
  [[nodiscard]] Shape owner_rows(std::int64_t width) const { return {owners * leaves, experts_here, slots, width}; }
};

NormActivations lay_out_norm(const Sizes& z) {
  return {z.make({z.leaves, z.n, z.d}), z.make({z.leaves, z.n}), z.make({z.leaves, z.n})};
}

AttentionActivations lay_out_attention(const Sizes& z) {
  AttentionActivations attention;
  for (Tensor* x : {&attention.q, &attention.k, &attention.v, &attention.out}) *x = z.make({z.leaves, z.n, z.a});
  attention.log_sum_exp = z.make({z.leaves, z.b, z.c.heads, z.t});
  return attention;
}

/// What metrics read of every block after the pass.
void lay_out_counts(const Sizes& z, MoeActivations& moe) {
  for (Tensor* x : {&moe.importance, &moe.load, &moe.gshard, &moe.z}) *x = z.make({z.groups});
  for (Tensor* x : {&moe.assigned, &moe.kept}) *x = z.make(Dtype::i64, {z.c.experts});
  moe.processed = z.make(Dtype::i64, {1});
}

/// What the router says of every token.
void lay_out_routing(const Sizes& z, MoeActivations& moe) {
  const std::int64_t k = z.c.router.selected;
  for (Tensor* x : {&moe.logits, &moe.noise, &moe.gates_clean, &moe.gates}) *x = z.make({z.groups, z.s, z.c.experts});
  for (Tensor* x : {&moe.selected, &moe.slot, &moe.row}) *x = z.make(Dtype::i32, {z.groups, z.s, k});
  moe.gate = z.make({z.groups, z.s, k});
}

MoeActivations lay_out_moe(const Sizes& z) {
  MoeActivations moe;
  lay_out_routing(z, moe);
  lay_out_counts(z, moe);
  moe.source = z.make(Dtype::i32, {z.owners, z.leaves, z.experts_here, z.slots});
  moe.expert_x = z.make(z.owner_rows(z.d));
  moe.expert_u = z.make(z.owner_rows(z.f));
  moe.o = z.make(z.home_rows());
  return moe;
}

BlockActivations lay_out_block(const Sizes& z, bool moe, Tensor x) {
  BlockActivations block;
  block.norm0 = lay_out_norm(z);
  block.attention = lay_out_attention(z);
  block.middle = z.make({z.leaves, z.n, z.d});
  block.norm1 = lay_out_norm(z);
  if (moe) {
    block.moe = lay_out_moe(z);
  } else {
    block.u = z.make({z.leaves, 1, z.n, z.f});
  }
  block.x = x;
  return block;
}

/// Two shapes in the memory of the larger.
void share(const Sizes& z, Tensor& dense, Shape dense_shape, Tensor& expert, Shape expert_shape) {
  const Tensor both = z.make({std::max(dense_shape.elements(), expert_shape.elements())});
  dense = Tensor(both.data, dense_shape, z.real, both.device);
  expert = Tensor(both.data, expert_shape, z.real, both.device);
}

PassScratch lay_out_scratch(const Sizes& z, const PassShape& shape) {
  PassScratch scratch;
  const bool sparse = z.experts_here > 0;
  const Shape dense_hidden{z.leaves, 1, z.n, z.f};
  const Shape expert_hidden = sparse ? z.owner_rows(z.f) : Shape{0};
  share(z, scratch.dense_h, dense_hidden, scratch.expert_h, expert_hidden);
  if (sparse && z.owners > 1) {
    scratch.rows_home = z.make(z.home_rows());
    scratch.rows_owner = z.make(z.owner_rows(z.d));
  }
  if (!shape.backward) return scratch;
  share(z, scratch.dense_du, dense_hidden, scratch.expert_du, expert_hidden);
  if (sparse) {
    if (z.owners == 1) scratch.rows_home = z.make(z.home_rows());
    scratch.rows_owner_dx = z.owners > 1 ? z.make(z.owner_rows(z.d)) : scratch.rows_home.view(z.owner_rows(z.d));
    scratch.dlogits = z.make({z.groups, z.s, z.c.experts});
    scratch.dgate = z.make({z.groups, z.s, z.c.router.selected});
  }
  for (Tensor* x : {&scratch.dx, &scratch.dnorm}) *x = z.make({z.leaves, z.n, z.d});
  for (Tensor* x : {&scratch.dq, &scratch.dk, &scratch.dv, &scratch.dout}) *x = z.make({z.leaves, z.n, z.a});
  scratch.dembedded = z.make({z.leaves, z.b, z.c.patches(), z.d});
  scratch.dpooled = z.make({z.images, z.d});
  if (z.c.representation > 0) scratch.dpre = z.make({z.images, z.c.representation});
  return scratch;
}

}  // namespace

Activations lay_out_activations(Arena& arena, Dtype real, const ModelConfig& c, const PassShape& shape) {
  const Sizes z(arena, real, c, shape);
  Activations acts;
  acts.shape = shape;
  const Shape image_shape{z.images, c.image_height, c.image_width, c.channels};
  acts.raw_images = z.make(Dtype::u8, image_shape);
  acts.labels = z.make(Dtype::i32, {z.images, shape.labels});
  if (z.groups > 0) acts.valid = z.make(Dtype::u8, {z.groups, z.s});
  acts.images = z.make(image_shape);
  acts.targets = z.make({z.images, c.classes});
  acts.patches = z.make({z.leaves, 1, z.b * c.patches(), c.patch_rows * c.patch_columns * c.channels});
  acts.embedded = z.make({z.leaves, 1, z.b * c.patches(), z.d});
  acts.x0 = z.make({z.leaves, z.n, z.d});
  // Without a backward pass nothing of a block is needed after the next: one dense and one sparse set serve all, and
  // the residual stream alternates between two buffers.
  BlockActivations dense;
  BlockActivations sparse;
  Tensor stream[2];
  for (std::int64_t block = 0; block < c.blocks; ++block) {
    const bool moe = c.is_moe(block);
    const bool keep = shape.backward;
    Tensor& x = stream[block % 2];
    if (keep || x.elements() == 0) x = z.make({z.leaves, z.n, z.d});
    BlockActivations& shared = moe ? sparse : dense;
    if (keep || shared.norm0.y.elements() == 0) {
      shared = lay_out_block(z, moe, x);
    } else if (moe) {
      lay_out_counts(z, shared.moe);
      if (shape.keep_routing) lay_out_routing(z, shared.moe);
    }
    shared.x = x;
    acts.blocks.push_back(shared);
  }
  acts.encoder_norm = lay_out_norm(z);
  acts.pooled = z.make({z.images, z.d});
  if (c.representation > 0) {
    acts.pre_linear = z.make({z.images, c.representation});
    acts.pre_logits = z.make({z.images, c.representation});
  } else {
    acts.pre_logits = acts.pooled;
  }
  acts.logits = z.make({z.images, c.classes});
  acts.dlogits = z.make({z.images, c.classes});
  acts.loss = z.make({z.images});
  acts.predicted = z.make(Dtype::i32, {z.images});
  acts.scratch = lay_out_scratch(z, shape);
  return acts;
}

}  // namespace vitrail
