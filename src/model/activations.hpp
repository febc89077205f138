#pragma once
// Everything that a pass writes besides gradients of parameters, laid out once before step 1.
// `leaves` = leaves per pass, N = B*T tokens per leaf, I = leaves*B images, groups = leaves*G. `owners` = EP; an owner
// holds E/EP experts; slots = G*C rows per leaf and expert; sources = EP*leaves, the leaves that an owner serves.
// K = choices of a token: all E where experts choose. R = E*C slots of a group (Soft MoE).

#include <cstdint>
#include <vector>

#include "device/arena.hpp"
#include "model/config.hpp"
#include "model/params.hpp"
#include "ops/ops.hpp"

namespace vitrail {

/// The dtypes of a pass's floating-point tensors: those of the back end (Ops::real, Ops::stored).
struct PassDtypes {
  PassDtypes(Dtype both) : real(both), stored(both) {}                    // NOLINT(google-explicit-constructor)
  PassDtypes(const Ops& ops) : real(ops.real()), stored(ops.stored()) {}  // NOLINT(google-explicit-constructor)
  Dtype real;
  Dtype stored;  ///< of tensors that enter matrix products or come out of them, marked below
};

/// What a block's backward pass computes again, because its forward pass did not keep it: less memory, more work, the
/// same numbers.
enum class Recompute : std::uint8_t {
  none,
  mlp,  ///< hidden layers of dense MLPs and of experts, by linear_forward: the same bits where that gives mlp_forward's
        ///< u
  block  ///< all but the stream behind the block, the router's noise and what is reported: the forward pass once more
};

/// What decides the sizes of a pass.
struct PassShape {
  std::int64_t leaves = 1;
  std::int64_t leaf_images = 0;           // B
  std::int64_t expert_parallel = 1;       // EP
  std::int64_t labels = 1;                // per image, at most
  std::int64_t mixup_images = 1;          // m: images that are mixed into one
  bool backward = true;                   // false: evaluation only, blocks share their memory but for what is counted
  bool keep_routing = false;              // without backward: every MoE block keeps gates, choices and slots as well
  Recompute recompute = Recompute::none;  // with backward: what shares memory between blocks
};

/// What the random numbers of a pass are functions of, beside the seed: the step, and where in it the pass stands.
struct Randomness {
  std::uint64_t seed = 0;
  std::uint64_t step = 0;
  std::int64_t first_leaf = 0;         ///< of this rank, counted over the step's batch
  std::int64_t first_source_leaf = 0;  ///< the first leaf that this rank's experts serve
  std::int64_t first_expert = 0;       ///< of this rank
};

struct NormActivations {
  Tensor y;     // [leaves N D]; stored where only products read it
  Tensor mean;  // [leaves N]
  Tensor rstd;  // [leaves N]
};

struct AttentionActivations {
  Tensor q;                        // stored [leaves Nq A]: Nq = N, or B where a probe asks
  Tensor k, v;                     // stored [leaves N A]
  NormActivations q_norm, k_norm;  // y like q and k, a row per head; none without qk_norm
  Tensor log_sum_exp;              // [leaves B H Tq]
  Tensor out;                      // stored [leaves Nq A]
};

/// Of Soft MoE.
struct SoftActivations {
  Tensor x_rnorm;   // [groups S]
  Tensor mu_rnorm;  // [R]
  Tensor dispatch;  // [groups S R]
  Tensor combine;   // [groups S R]
  Tensor slots_x;   // [groups R D]: means of tokens
  Tensor slots_o;   // [groups R D]: what the experts made of them
};

struct MoeActivations {
  std::int64_t block = 0;
  Tensor logits;  // [groups S E]
  Tensor noise;   // [groups S E], soft: [groups S R]: standard normal, filled before a training step's forward pass
  Tensor gates_clean;  // [groups S E]
  Tensor gates;        // [groups S E]
  Tensor selected;     // i32 [groups S K]; soft: [groups R 1], the same in every pass
  Tensor slot;         // i32 [groups S K]; soft: [groups R 1], the same in every pass
  Tensor gate;         // [groups S K]; `gates` itself where experts choose
  Tensor weight;       // [groups S K]: gates divided by their sum, or `gate` itself
  Tensor source;       // i32 [owners leaves E/EP slots]
  Tensor row;          // i32 [groups S K]; soft: [groups R 1]
  Tensor importance;   // [groups]; 0 but for RouterKind::top_k, as the other losses
  Tensor load;         // [groups]
  Tensor gshard;       // [groups]
  Tensor z;            // [groups]
  Tensor assigned;     // i64 [E]
  Tensor kept;         // i64 [E]
  Tensor processed;    // i64 [1]
  Tensor expert_x;     // stored [sources E/EP slots D]: rows that came to this rank's experts
  Tensor expert_u;     // stored [sources E/EP slots F]
  Tensor o;            // stored [owners leaves E/EP slots D]: expert outputs, home again
  SoftActivations soft;
};

/// What the backward pass of a block needs of its forward pass; is lost when all blocks' are done (SpareMemory). What
/// blocks share (PassShape::backward, recompute) is that of the block that was computed last.
struct BlockActivations {
  std::int64_t index = 0;
  NormActivations norm0;
  AttentionActivations attention;
  Tensor middle;  // [leaves N D]: the residual stream between the two halves
  NormActivations norm1;
  Tensor u;            // stored [leaves 1 N F], dense blocks
  MoeActivations moe;  // MoE blocks
  Tensor x;            // [leaves N D]: the residual stream after the block
};

/// Of Classifier::map.
struct MapActivations {
  Tensor probe;  // [leaves 1 B D]: the probe, once for every image
  AttentionActivations attention;
  Tensor attended;       // [leaves 1 B D]
  NormActivations norm;  // [leaves B D]
  Tensor u;              // stored [leaves 1 B F]
};

/// Memory that lives inside one half of a block.
struct PassScratch {
  Tensor dense_h, dense_du;        // stored [leaves 1 N F]
  Tensor expert_h, expert_du;      // stored [sources E/EP slots F]; share the memory of the two above
  Tensor dense_mask, expert_mask;  // like these; dropouts of hidden channels; none without
  Tensor map_h, map_du;            // stored [leaves 1 B F]
  Tensor rows_home;                // stored [owners leaves E/EP slots D]
  Tensor rows_owner;               // stored [sources E/EP slots D]; none when EP = 1, nothing moves then
  Tensor rows_owner_dx;            // stored [sources E/EP slots D]; rows_home itself when EP = 1
  Tensor wire_home, wire_owner;    // bf16, like rows_home and rows_owner; none unless the exchange is in bfloat16
                                   // and the rows are not
  Tensor wire_tokens;              // bf16 [leaves N D]
  Tensor shuffled;                 // [groups S E]; none unless some routers are replaced by random choices
  Tensor dx;                       // [leaves N D]: gradient of the residual stream
  Tensor dnorm;                    // [leaves N D]
  Tensor dnorm_stored;             // stored [leaves N D], in the memory of dnorm
  Tensor dbranch;                  // [leaves N D]: gradient of a branch behind its dropout
  Tensor dq, dk, dv, dout;         // stored [leaves N A]
  Tensor dlogits;                  // [groups S E]
  Tensor dgate;                    // [groups S K]
  Tensor ddispatch, dcombine;      // [groups S R]
  Tensor dslots;                   // [groups R D]
  Tensor dembedded;                // stored [leaves B Tp D]
  Tensor dpooled;                  // [I D]
  Tensor dpre;                     // [I rep]
  Tensor dprobe, dattended;        // [leaves 1 B D]
  Tensor dmap_q, dmap_out;         // stored [leaves 1 B D]
};

struct Activations {
  PassShape shape;
  Randomness random;
  Tensor raw_images;  // u8 [I h w c]
  Tensor labels;      // i32 [I labels]: -1 = none
  Tensor valid;       // u8 [groups S]: set `masked` to use it
  bool masked = false;
  bool forced = false;  ///< moe.selected and moe.slot are inputs: the choices were made elsewhere; no block shares them
  Tensor images;        // [I h w c]
  Tensor targets;       // [I V]
  Tensor patches;       // stored [leaves 1 B*Tp patch]
  Tensor embedded;      // [leaves 1 B*Tp D]
  Tensor positions;     // [T D]: of PositionEmbedding::sincos2d, else none
  Tensor x0;            // [leaves N D]
  std::vector<BlockActivations> blocks;
  NormActivations encoder_norm;
  MapActivations map;
  Tensor pooled;      // [I D]
  Tensor pre_linear;  // [I rep]: before tanh; none without a representation
  Tensor pre_logits;  // [I rep or D]: the input of the head
  Tensor logits;      // [I V]
  Tensor dlogits;     // [I V]
  Tensor loss;        // [I]
  Tensor predicted;   // i32 [I]
  /// loss, predicted, and importance, load, gshard, z, assigned, kept, processed of every MoE block are parts of this:
  Tensor report;  // u8 [bytes]
  Tensor losses;  // [n]: its first part, all losses and nothing else but zeros
  PassScratch scratch;
  /// Images and targets before mixup, and its weights; none when one image is not mixed with others.
  Tensor unmixed_images, unmixed_targets;
  Tensor mix_weights;  // [leaves B m]
};

/// Memory that is written by the backward pass of block `block` and not read before that: of a parameter's gradient.
/// What later blocks keep for their own backward passes, which are over then, may lie there; not what blocks share and
/// write again in the backward pass.
struct SpareMemory {
  std::int64_t block = 0;
  Tensor memory;
};
/// All of it that the gradients of the weights of blocks are.
std::vector<SpareMemory> spare_memory(const VitMoeParams& gradients);

/// Lays out a pass in an arena (measuring or real), and in `spare`, whatever finds room there. In a real arena it also
/// fills in what is the same in every pass: the positions of sincos2d, the slots of Soft MoE.
Activations lay_out_activations(Arena& arena, Device& device, const PassDtypes& dtypes, const ModelConfig& config,
                                const PassShape& shape, const std::vector<SpareMemory>& spare = {});

}  // namespace vitrail
