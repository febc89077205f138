#pragma once
// Everything that a pass writes besides gradients of parameters, laid out once before step 1.
// `leaves` = leaves per pass, N = B*T tokens per leaf, I = leaves*B images, groups = leaves*G. `owners` = EP; an owner
// holds E/EP experts; slots = G*C rows per leaf and expert; sources = EP*leaves, the leaves that an owner serves.

#include <cstdint>
#include <vector>

#include "device/arena.hpp"
#include "model/config.hpp"

namespace vitrail {

/// What decides the sizes of a pass.
struct PassShape {
  std::int64_t leaves = 1;
  std::int64_t leaf_images = 0;      // B
  std::int64_t expert_parallel = 1;  // EP
  std::int64_t labels = 1;           // per image, at most
  bool backward = true;              // false: evaluation only, blocks share their memory but for what is counted
  bool keep_routing = false;         // without backward: every MoE block keeps gates, choices and slots as well
};

struct NormActivations {
  Tensor y;     // [leaves N D]
  Tensor mean;  // [leaves N]
  Tensor rstd;  // [leaves N]
};

struct AttentionActivations {
  Tensor q, k, v;      // [leaves N A]
  Tensor log_sum_exp;  // [leaves B H T]
  Tensor out;          // [leaves N A]
};

struct MoeActivations {
  Tensor logits;       // [groups S E]
  Tensor noise;        // [groups S E]: standard normal, filled before the forward pass of a training step
  Tensor gates_clean;  // [groups S E]
  Tensor gates;        // [groups S E]
  Tensor selected;     // i32 [groups S K]
  Tensor slot;         // i32 [groups S K]
  Tensor gate;         // [groups S K]
  Tensor source;       // i32 [owners leaves E/EP slots]
  Tensor row;          // i32 [groups S K]
  Tensor importance;   // [groups]
  Tensor load;         // [groups]
  Tensor gshard;       // [groups]
  Tensor z;            // [groups]
  Tensor assigned;     // i64 [E]
  Tensor kept;         // i64 [E]
  Tensor processed;    // i64 [1]
  Tensor expert_x;     // [sources E/EP slots D]: rows that came to this rank's experts
  Tensor expert_u;     // [sources E/EP slots F]
  Tensor o;            // [owners leaves E/EP slots D]: expert outputs, home again
};

struct BlockActivations {
  NormActivations norm0;
  AttentionActivations attention;
  Tensor middle;  // [leaves N D]: the residual stream between the two halves
  NormActivations norm1;
  Tensor u;            // [leaves 1 N F], dense blocks
  MoeActivations moe;  // MoE blocks
  Tensor x;            // [leaves N D]: the residual stream after the block
};

/// Memory that lives inside one half of a block.
struct PassScratch {
  Tensor dense_h, dense_du;    // [leaves 1 N F]
  Tensor expert_h, expert_du;  // [sources E/EP slots F]; share the memory of the two above
  Tensor rows_home;            // [owners leaves E/EP slots D]
  Tensor rows_owner;           // [sources E/EP slots D]; none when EP = 1, nothing moves then
  Tensor rows_owner_dx;        // [sources E/EP slots D]; rows_home itself when EP = 1
  Tensor dx;                   // [leaves N D]: gradient of the residual stream
  Tensor dnorm;                // [leaves N D]
  Tensor dq, dk, dv, dout;     // [leaves N A]
  Tensor dlogits;              // [groups S E]
  Tensor dgate;                // [groups S K]
  Tensor dembedded;            // [leaves B Tp D]
  Tensor dpooled, dpre;        // [I D or rep]
};

struct Activations {
  PassShape shape;
  Tensor raw_images;  // u8 [I h w c]
  Tensor labels;      // i32 [I labels]: -1 = none
  Tensor valid;       // u8 [groups S]: set `masked` to use it
  bool masked = false;
  Tensor images;    // [I h w c]
  Tensor targets;   // [I V]
  Tensor patches;   // [leaves 1 B*Tp patch]
  Tensor embedded;  // [leaves 1 B*Tp D]
  Tensor x0;        // [leaves N D]
  std::vector<BlockActivations> blocks;
  NormActivations encoder_norm;
  Tensor pooled;      // [I D]
  Tensor pre_linear;  // [I rep]: before tanh; none without a representation
  Tensor pre_logits;  // [I rep or D]: the input of the head
  Tensor logits;      // [I V]
  Tensor dlogits;     // [I V]
  Tensor loss;        // [I]
  Tensor predicted;   // i32 [I]
  PassScratch scratch;
};

/// Lays out a pass in an arena (measuring or real); `real` is the back end's dtype.
Activations lay_out_activations(Arena& arena, Dtype real, const ModelConfig& config, const PassShape& shape);

}  // namespace vitrail
