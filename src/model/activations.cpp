#include "model/activations.hpp"

#include <algorithm>
#include <cstddef>
#include <optional>

#include "device/host_values.hpp"
#include "model/positions.hpp"

namespace vitrail {

namespace {

/// Spare memory, cut into tensors from the front of each piece.
class Spare {
 public:
  explicit Spare(const std::vector<SpareMemory>& pieces) {
    for (const SpareMemory& piece : pieces) pieces_.push_back({piece, 0});
    // From the last block on: what lies before early blocks serves most others.
    std::stable_sort(pieces_.begin(), pieces_.end(),
                     [](const Piece& a, const Piece& b) { return a.spare.block > b.spare.block; });
  }
  /// For a tensor that block `block` keeps; none when there is no room.
  std::optional<Tensor> allocate(std::int64_t block, Dtype dtype, const Shape& shape) {
    constexpr std::int64_t kAlignment = 64;
    const std::int64_t bytes = shape.elements() * size_of(dtype);
    for (Piece& piece : pieces_) {
      const Tensor& memory = piece.spare.memory;
      if (piece.spare.block >= block || piece.used + bytes > memory.bytes()) continue;
      auto* const begin = static_cast<std::byte*>(memory.data);
      void* const data = begin == nullptr ? nullptr : begin + piece.used;
      piece.used += (bytes + kAlignment - 1) / kAlignment * kAlignment;
      return Tensor(data, shape, dtype, memory.device);
    }
    return std::nullopt;
  }

 private:
  struct Piece {
    SpareMemory spare;
    std::int64_t used;  // bytes
  };
  std::vector<Piece> pieces_;
};

/// Lengths of a pass, and shorthand for its allocations.
struct Sizes {
  Arena& arena;
  Spare& spare;
  std::int64_t keeper = -1;  ///< the block that keeps what is made; -1: it is not for a block's backward pass alone
  Tensor hidden;             ///< one hidden layer that all blocks use in turn; no elements: each has its own
  Device& device;
  Dtype real, stored;
  const ModelConfig& c;
  std::int64_t leaves, b, t, d, a, f, n, images, groups, s, k, owners, experts_here, slots, r;

  Sizes(Arena& arena_, Device& device_, const PassDtypes& dtypes, const ModelConfig& config, const PassShape& shape,
        Spare& spare_)
      : arena(arena_),
        spare(spare_),
        device(device_),
        real(dtypes.real),
        stored(dtypes.stored),
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
        k(0),
        owners(shape.expert_parallel),
        experts_here(0),
        slots(0),
        r(0) {
    if (c.moe_blocks.empty()) return;
    s = c.group_tokens();
    groups = leaves * n / s;
    k = c.choices();
    experts_here = c.experts / owners;
    slots = n / s * c.slots();
    if (soft()) r = c.experts * c.slots();
  }
  [[nodiscard]] bool soft() const { return c.router.kind == RouterKind::soft; }
  [[nodiscard]] Tensor keep(Dtype dtype, Shape shape) const {
    const std::optional<Tensor> found = keeper < 0 ? std::nullopt : spare.allocate(keeper, dtype, shape);
    return found ? *found : arena.allocate(dtype, shape);
  }
  [[nodiscard]] Tensor make(Shape shape) const { return keep(real, shape); }
  [[nodiscard]] Tensor make_stored(Shape shape) const { return keep(stored, shape); }
  [[nodiscard]] Tensor make(Dtype dtype, Shape shape) const { return arena.allocate(dtype, shape); }
  [[nodiscard]] Shape home_rows() const { return {owners, leaves, experts_here, slots, d}; }
  [[nodiscard]] Shape owner_rows(std::int64_t width) const { return {owners * leaves, experts_here, slots, width}; }
  [[nodiscard]] Shape dense_hidden() const { return {leaves, 1, n, f}; }
  [[nodiscard]] Tensor hidden_layer(Shape shape) const {
    return hidden.elements() == 0 ? make_stored(shape) : Tensor(hidden.data, shape, stored, hidden.device);
  }
};

/// With `rows` statistics per leaf.
NormActivations lay_out_norm(const Sizes& z, std::int64_t rows, Tensor y) {
  return {y, z.make({z.leaves, rows}), z.make({z.leaves, rows})};
}
/// Of `rows` tokens per leaf, for products alone or for all.
NormActivations lay_out_norm(const Sizes& z, std::int64_t rows, bool for_products) {
  const Shape shape{z.leaves, rows, z.d};
  return lay_out_norm(z, rows, for_products ? z.make_stored(shape) : z.make(shape));
}

/// `asking` queries per image.
AttentionActivations lay_out_attention(const Sizes& z, std::int64_t asking) {
  AttentionActivations attention;
  const Shape asked{z.leaves, z.b * asking, z.a};
  const Shape all{z.leaves, z.n, z.a};
  for (Tensor* x : {&attention.q, &attention.out}) *x = z.make_stored(asked);
  for (Tensor* x : {&attention.k, &attention.v}) *x = z.make_stored(all);
  if (z.c.qk_norm) {
    attention.q_norm = lay_out_norm(z, z.b * asking * z.c.heads, z.make_stored(asked));
    attention.k_norm = lay_out_norm(z, z.n * z.c.heads, z.make_stored(all));
  }
  attention.log_sum_exp = z.make({z.leaves, z.b, z.c.heads, asking});
  return attention;
}

void lay_out_choices(const Sizes& z, MoeActivations& moe) {
  for (Tensor* x : {&moe.logits, &moe.gates_clean, &moe.gates}) *x = z.make({z.groups, z.s, z.c.experts});
  for (Tensor* x : {&moe.selected, &moe.slot, &moe.row}) *x = z.make(Dtype::i32, {z.groups, z.s, z.k});
  moe.gate = z.c.router.kind == RouterKind::experts_choice ? moe.gates : z.make({z.groups, z.s, z.k});
  moe.weight = z.c.router.normalize_gates ? z.make({z.groups, z.s, z.k}) : moe.gate;
}

void lay_out_soft(const Sizes& z, MoeActivations& moe) {
  SoftActivations& soft = moe.soft;
  for (Tensor* x : {&soft.dispatch, &soft.combine}) *x = z.make({z.groups, z.s, z.r});
  soft.x_rnorm = z.make({z.groups, z.s});
  soft.mu_rnorm = z.make({z.r});
  for (Tensor* x : {&soft.slots_x, &soft.slots_o}) *x = z.make({z.groups, z.r, z.d});
  for (Tensor* x : {&moe.selected, &moe.slot, &moe.row}) *x = z.make(Dtype::i32, {z.groups, z.r, 1});
  if (!moe.slot) return;
  // Slot r of a group is slot r mod C of expert r div C.
  std::vector<std::int32_t> selected, slot;
  for (std::int64_t i = 0; i < moe.slot.elements(); ++i) {
    selected.push_back(static_cast<std::int32_t>(i % z.r / z.c.slots()));
    slot.push_back(static_cast<std::int32_t>(i % z.c.slots()));
  }
  z.device.copy(ConstTensor(selected.data(), moe.selected.shape, Dtype::i32), moe.selected);
  z.device.copy(ConstTensor(slot.data(), moe.slot.shape, Dtype::i32), moe.slot);
}

/// What metrics read after a pass, block by block, in one run of memory: the losses of all come first.
std::vector<MoeActivations> lay_out_report(const Sizes& z, Activations& acts) {
  const std::int64_t begin = z.arena.bytes();
  std::vector<MoeActivations> blocks(static_cast<std::size_t>(z.c.blocks));
  const auto of_each = [&](const auto& lay_out) {
    for (const std::int64_t block : z.c.moe_blocks) lay_out(blocks[static_cast<std::size_t>(block)]);
  };
  acts.loss = z.make({z.images});
  of_each([&](MoeActivations& moe) {
    for (Tensor* x : {&moe.importance, &moe.load, &moe.gshard, &moe.z}) *x = z.make({z.groups});
  });
  acts.losses = acts.loss;
  acts.losses.shape = {(z.arena.bytes() - begin) / size_of(z.real)};
  acts.predicted = z.make(Dtype::i32, {z.images});
  of_each([&](MoeActivations& moe) {
    for (Tensor* x : {&moe.assigned, &moe.kept}) *x = z.make(Dtype::i64, {z.c.experts});
    moe.processed = z.make(Dtype::i64, {1});
  });
  acts.report = Tensor(acts.loss.data, {z.arena.bytes() - begin}, Dtype::u8, acts.loss.device);
  return blocks;
}

void take_reported(const MoeActivations& from, MoeActivations& to) {
  to.importance = from.importance, to.load = from.load, to.gshard = from.gshard, to.z = from.z;
  to.assigned = from.assigned, to.kept = from.kept, to.processed = from.processed;
}

Tensor lay_out_noise(const Sizes& z) { return z.make({z.groups, z.s, z.soft() ? z.r : z.c.experts}); }

/// What the router says of every token.
void lay_out_routing(const Sizes& z, MoeActivations& moe) { (z.soft() ? lay_out_soft : lay_out_choices)(z, moe); }

MoeActivations lay_out_moe(const Sizes& z) {
  MoeActivations moe;
  lay_out_routing(z, moe);
  moe.source = z.make(Dtype::i32, {z.owners, z.leaves, z.experts_here, z.slots});
  moe.expert_x = z.make_stored(z.owner_rows(z.d));
  moe.expert_u = z.hidden_layer(z.owner_rows(z.f));
  moe.o = z.make_stored(z.home_rows());
  return moe;
}

/// For a dense block, a sparse one, or both in turn; without noise and the stream behind the block.
BlockActivations lay_out_block(const Sizes& z, bool dense, bool sparse) {
  BlockActivations block;
  block.norm0 = lay_out_norm(z, z.n, true);
  block.attention = lay_out_attention(z, z.t);
  block.middle = z.make({z.leaves, z.n, z.d});
  block.norm1 = lay_out_norm(z, z.n, !sparse);  // routers are exact
  if (dense) block.u = z.hidden_layer(z.dense_hidden());
  if (sparse) block.moe = lay_out_moe(z);
  return block;
}

/// The memory of both kinds of block, as one of them has it.
BlockActivations of_kind(const Sizes& z, BlockActivations both, bool moe) {
  if (moe) {
    both.u = Tensor();
  } else {
    Tensor& y = both.norm1.y;
    y = Tensor(y.data, y.shape, z.stored, y.device);
    both.moe = {};
  }
  return both;
}

/// For a backward pass every block keeps its own, but for what it computes again: that is in the memory of all.
/// Without, nothing of a block is needed after the next, and the residual stream alternates between two buffers.
std::vector<BlockActivations> lay_out_blocks(Sizes& z, const PassShape& shape,
                                             const std::vector<MoeActivations>& reported) {
  const bool share_hidden = !shape.backward || shape.recompute != Recompute::none;
  const bool share_all = !shape.backward || shape.recompute == Recompute::block;
  const bool sparse = !z.c.moe_blocks.empty();
  const bool dense = std::ssize(z.c.moe_blocks) < z.c.blocks;
  // Not in spare memory (keeper is -1): the backward pass writes gradients there before it writes this again.
  if (share_hidden) {
    z.hidden = z.make_stored({std::max(dense ? z.dense_hidden().elements() : 0,  //
                                       sparse ? z.owner_rows(z.f).elements() : 0)});
  }
  const BlockActivations shared = share_all ? lay_out_block(z, dense, sparse) : BlockActivations();
  std::vector<BlockActivations> blocks;
  Tensor stream[2], noise;
  for (std::int64_t block = 0; block < z.c.blocks; ++block) {
    const bool moe = z.c.is_moe(block);
    if (shape.backward) z.keeper = block;
    Tensor& x = stream[block % 2];
    if (shape.backward || x.elements() == 0) x = z.make({z.leaves, z.n, z.d});
    BlockActivations kept = share_all ? of_kind(z, shared, moe) : lay_out_block(z, !moe, moe);
    if (moe) {
      if (shape.keep_routing && block != z.c.moe_blocks.front()) lay_out_routing(z, kept.moe);
      if (shape.backward || noise.elements() == 0) noise = lay_out_noise(z);
      kept.moe.noise = noise;
      take_reported(reported[static_cast<std::size_t>(block)], kept.moe);
    }
    kept.x = x;
    kept.index = kept.moe.block = block;
    blocks.push_back(kept);
  }
  z.keeper = -1;
  return blocks;
}

/// Two shapes in the memory of the larger.
void share(const Sizes& z, Tensor& dense, Shape dense_shape, Tensor& expert, Shape expert_shape) {
  const Tensor both = z.make_stored({std::max(dense_shape.elements(), expert_shape.elements())});
  dense = Tensor(both.data, dense_shape, both.dtype, both.device);
  expert = Tensor(both.data, expert_shape, both.dtype, both.device);
}

/// What the forward pass of an MoE block needs beside its activations.
void lay_out_moe_scratch(const Sizes& z, PassScratch& scratch) {
  const RouterConfig& router = z.c.router;
  if (z.owners > 1) {
    scratch.rows_home = z.make_stored(z.home_rows());
    scratch.rows_owner = z.make_stored(z.owner_rows(z.d));
  }
  if (router.exchange_bf16) {
    const bool rows_are = z.stored == Dtype::bf16;
    if (!rows_are) scratch.wire_home = z.make(Dtype::bf16, z.home_rows());
    if (!rows_are && z.owners > 1) scratch.wire_owner = z.make(Dtype::bf16, z.owner_rows(z.d));
    scratch.wire_tokens = z.make(Dtype::bf16, {z.leaves, z.n, z.d});
  }
  if (!router.random_blocks.empty()) scratch.shuffled = z.make({z.groups, z.s, z.c.experts});
}

void lay_out_moe_gradients(const Sizes& z, PassScratch& scratch) {
  if (z.owners == 1) scratch.rows_home = z.make_stored(z.home_rows());
  scratch.rows_owner_dx = z.owners > 1 ? z.make_stored(z.owner_rows(z.d)) : scratch.rows_home.view(z.owner_rows(z.d));
  if (z.soft()) {
    for (Tensor* x : {&scratch.ddispatch, &scratch.dcombine}) *x = z.make({z.groups, z.s, z.r});
    scratch.dslots = z.make({z.groups, z.r, z.d});
  } else {
    scratch.dlogits = z.make({z.groups, z.s, z.c.experts});
    scratch.dgate = z.make({z.groups, z.s, z.k});
  }
}

PassScratch lay_out_scratch(const Sizes& z, const PassShape& shape) {
  PassScratch scratch;
  const bool sparse = z.experts_here > 0;
  const bool map = z.c.classifier == Classifier::map;
  const Shape dense_hidden = z.dense_hidden();
  const Shape expert_hidden = sparse ? z.owner_rows(z.f) : Shape{0};
  const Shape map_hidden{z.leaves, 1, z.b, z.f};
  share(z, scratch.dense_h, dense_hidden, scratch.expert_h, expert_hidden);
  if (map) scratch.map_h = z.make_stored(map_hidden);
  if (sparse) lay_out_moe_scratch(z, scratch);
  if (!shape.backward) return scratch;
  share(z, scratch.dense_du, dense_hidden, scratch.expert_du, expert_hidden);
  if (z.c.dropout > 0) scratch.dense_mask = z.make(dense_hidden);
  if (sparse && z.c.expert_dropout > 0) scratch.expert_mask = z.make(expert_hidden);
  if (sparse) lay_out_moe_gradients(z, scratch);
  for (Tensor* x : {&scratch.dx, &scratch.dnorm}) *x = z.make({z.leaves, z.n, z.d});
  if (z.c.dropout > 0 || z.c.stochastic_depth > 0) scratch.dbranch = z.make({z.leaves, z.n, z.d});
  scratch.dnorm_stored = Tensor(scratch.dnorm.data, scratch.dnorm.shape, z.stored, scratch.dnorm.device);
  for (Tensor* x : {&scratch.dq, &scratch.dk, &scratch.dv, &scratch.dout}) *x = z.make_stored({z.leaves, z.n, z.a});
  scratch.dembedded = z.make_stored({z.leaves, z.b, z.c.patches(), z.d});
  scratch.dpooled = z.make({z.images, z.d});
  if (z.c.representation > 0) scratch.dpre = z.make({z.images, z.c.representation});
  if (map) {
    scratch.map_du = z.make_stored(map_hidden);
    const Shape probes{z.leaves, 1, z.b, z.d};
    for (Tensor* x : {&scratch.dprobe, &scratch.dattended}) *x = z.make(probes);
    for (Tensor* x : {&scratch.dmap_q, &scratch.dmap_out}) *x = z.make_stored(probes);
  }
  return scratch;
}

MapActivations lay_out_map(const Sizes& z) {
  MapActivations map;
  for (Tensor* x : {&map.probe, &map.attended}) *x = z.make({z.leaves, 1, z.b, z.d});
  map.attention = lay_out_attention(z, 1);
  map.norm = lay_out_norm(z, z.b, true);
  map.u = z.make_stored({z.leaves, 1, z.b, z.f});
  return map;
}

}  // namespace

std::vector<SpareMemory> spare_memory(const VitMoeParams& gradients) {
  std::vector<SpareMemory> spare;
  for (std::size_t i = 0; i < gradients.blocks.size(); ++i) {
    const BlockParams& block = gradients.blocks[i];
    const AttentionParams& attention = block.attention;
    for (const Tensor& memory :
         {block.mlp0.w, block.mlp1.w, attention.wq, attention.wk, attention.wv, attention.out.w}) {
      if (memory.elements() > 0) spare.push_back({static_cast<std::int64_t>(i), memory});
    }
  }
  return spare;
}

Activations lay_out_activations(Arena& arena, Device& device, const PassDtypes& dtypes, const ModelConfig& c,
                                const PassShape& shape, const std::vector<SpareMemory>& spare) {
  Spare room(spare);
  Sizes z(arena, device, dtypes, c, shape, room);
  Activations acts;
  acts.shape = shape;
  const std::vector<MoeActivations> reported = lay_out_report(z, acts);
  const Shape image_shape{z.images, c.image_height, c.image_width, c.channels};
  acts.raw_images = z.make(Dtype::u8, image_shape);
  acts.labels = z.make(Dtype::i32, {z.images, shape.labels});
  if (z.groups > 0) acts.valid = z.make(Dtype::u8, {z.groups, z.s});
  acts.images = z.make(image_shape);
  acts.targets = z.make({z.images, c.classes});
  if (shape.mixup_images > 1) {
    acts.unmixed_images = z.make(image_shape);
    acts.unmixed_targets = z.make({z.images, c.classes});
    acts.mix_weights = z.make({z.leaves, z.b, shape.mixup_images});
  }
  acts.patches = z.make_stored({z.leaves, 1, z.b * c.patches(), c.patch_rows * c.patch_columns * c.channels});
  acts.embedded = z.make({z.leaves, 1, z.b * c.patches(), z.d});
  acts.x0 = z.make({z.leaves, z.n, z.d});
  if (c.positions == PositionEmbedding::sincos2d) {
    acts.positions = z.make({z.t, z.d});
    if (acts.positions) from_doubles(sincos2d_positions(c), device, acts.positions);
  }
  acts.blocks = lay_out_blocks(z, shape, reported);
  acts.encoder_norm = lay_out_norm(z, z.n, false);
  if (c.classifier == Classifier::map) acts.map = lay_out_map(z);
  acts.pooled = z.make({z.images, z.d});
  if (c.representation > 0) {
    acts.pre_linear = z.make({z.images, c.representation});
    acts.pre_logits = z.make({z.images, c.representation});
  } else {
    acts.pre_logits = acts.pooled;
  }
  acts.logits = z.make({z.images, c.classes});
  acts.dlogits = z.make({z.images, c.classes});
  acts.scratch = lay_out_scratch(z, shape);
  return acts;
}

}  // namespace vitrail
