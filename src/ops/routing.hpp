#pragma once
// Verbs of the sparse layer: the routers, their losses, and the movement of rows to and from the experts.
// Conventions as in ops/layers.hpp. A token is the index of a row of the call: (leaf, group, place in the group).
// `assignment` = token * K + j numbers the pair of a token and its choice of rank j (0 = largest gate).

#include <cstdint>

#include "device/tensor.hpp"

namespace vitrail {

/// In which order the tokens of a group take slots, inside each choice rank. [V-MoE]
enum class TokenOrder : std::uint8_t {
  vanilla,          ///< as they come
  prioritized,      ///< Batch Prioritized Routing: largest gate first, ties by place
  prioritized_sum,  ///< the same by the sum of a token's K gates, added in the order of the choices
  reversed,         ///< smallest of the largest gates first, ties by place: the worst priority, for comparison
  random            ///< by a random number of the token, ties by place
};

/// What random orders and random experts are drawn from: a token's index is first_token + its place in the call.
struct RouterDraw {
  std::uint64_t seed{};
  std::uint64_t step{};
  std::uint32_t layer{};
  std::uint64_t first_token{};
};

/// Uniform random routing, for the ablation of a router: y[t,i] = x[t,p(i)], p a random permutation of the E experts
/// for every token, so that a token keeps its gates and loses its choice. Number i of (Purpose::random_experts) index
/// token * E + i; p sorts the experts by their numbers, ties by expert.
struct ShuffleExperts {
  ConstTensor x;  // real [tokens E]
  RouterDraw draw;
  Tensor y;  // real [tokens E]; not x
  void check() const;
};

/// Softmax, top-k and slots of the noisy top-k router. [V-MoE]
/// Ties go to the lower expert. Choice-major: all first choices take slots before any second choice. Counting goes on
/// past the capacity: an assignment is kept if 0 <= slot < C, and C is the business of the other verbs.
struct RouteTopK {
  ConstTensor logits;  // real [groups S E] [optional]: left out, `gates` is an input and is taken as it is
  ConstTensor noise;   // real [groups S E] [optional]: standard normal; goes with logits
  double noise_std{};  // sigma: z_noisy = z + sigma * noise
  ConstTensor valid;  // u8 [groups S] [optional]: a token with 0 gets slot -1, takes no place and no part in the losses
  TokenOrder order = TokenOrder::vanilla;
  RouterDraw draw = {};  // of TokenOrder::random: bits of (Purpose::token_order) at the token's index
  Tensor gates_clean;    // real [groups S E]: softmax(z); goes with logits
  Tensor gates;          // real [groups S E]: softmax(z_noisy); equal to gates_clean without noise
  Tensor selected;       // i32 [groups S K]: experts by descending gate
  Tensor slot;           // i32 [groups S K]: place in the expert's buffer of the group
  Tensor gate;           // real [groups S K]: gates at `selected`
  void check() const;
};

/// The gates, and those of given choices: a router whose decisions were made elsewhere.
struct RouteAsGiven {
  ConstTensor logits;    // real [groups S E]
  ConstTensor noise;     // real [groups S E] [optional]
  double noise_std{};    // sigma
  ConstTensor selected;  // i32 [groups S K]
  Tensor gates_clean;    // real [groups S E]
  Tensor gates;          // real [groups S E]
  Tensor gate;           // real [groups S K]: gates at `selected`
  void check() const;
};

/// Experts choose tokens: every expert takes the C tokens of the group with the largest gates, ties to the lower place;
/// its slots hold them by descending gate. A token has a choice of every expert, K = E: selected[t,e] = e, and
/// slot[t,e] is its place in expert e's buffer or -1. So the verbs that move rows serve this router too. [V-MoE]
struct RouteExpertsChoice {
  ConstTensor logits;       // real [groups S E] [optional]: left out, `gates` is an input and is taken as it is
  ConstTensor noise;        // real [groups S E] [optional]: goes with logits
  double noise_std{};       // sigma
  ConstTensor valid;        // u8 [groups S] [optional]: a token with 0 is taken by nobody
  std::int64_t capacity{};  // C, at most S; with fewer than C valid tokens the last slots stay empty
  Tensor gates_clean;       // real [groups S E]; goes with logits
  Tensor gates;             // real [groups S E]
  Tensor selected;          // i32 [groups S E]
  Tensor slot;              // i32 [groups S E]
  void check() const;
};

/// y[t,j] = gate[t,j] / sum over the kept choices (row >= 0) of the token's gates, j ascending; 0 for dropped ones, and
/// for all when that sum is 0. So that an upcycled layer begins as its dense one (Komatsuzaki et al. 2022, arXiv
/// 2212.05055).
struct NormalizeGatesForward {
  ConstTensor gate;  // real [tokens K]
  ConstTensor row;   // i32 [tokens K]
  Tensor y;          // real [tokens K]
  void check() const;
};
/// dgate[t,j] = (dy[t,j] - sum over kept i of dy[t,i] y[t,i]) / (sum of kept gates); 0 for dropped ones, and for all
/// when that sum is 0. [derived]
struct NormalizeGatesBackward {
  ConstTensor dy;    // real [tokens K]
  ConstTensor gate;  // real [tokens K]
  ConstTensor row;   // i32 [tokens K]
  ConstTensor y;     // real [tokens K]
  Tensor dgate;      // real [tokens K]; may be dy itself
  void check() const;
};

/// The auxiliary losses of every group, not weighted. CV2(v) = population variance / mean^2. [V-MoE]
/// z = mean over the tokens of (log of sum of exp(z))^2, of the logits without noise (ST-MoE, Zoph et al. 2022).
struct RouterLossesForward {
  ConstTensor logits;       // real [groups S E]
  ConstTensor noise;        // real [groups S E] [optional]; without it there is no load loss
  double noise_std{};       // sigma
  ConstTensor gates_clean;  // real [groups S E]
  ConstTensor gates;        // real [groups S E]
  ConstTensor selected;     // i32 [groups S K]
  ConstTensor valid;        // u8 [groups S] [optional]
  Tensor importance;        // real [groups]
  Tensor load;              // real [groups]; 0 without noise
  Tensor gshard;            // real [groups]
  Tensor z;                 // real [groups]
  void check() const;
};

/// Gradient of the router's logits: through the combine weights (dgate) and through the losses. [derived]
/// The scales are weight / (groups of the whole step); a term whose scale is 0 is not computed.
struct RouterBackward {
  ConstTensor dgate;        // real [groups S K]: 0 where an assignment was dropped
  ConstTensor logits;       // real [groups S E]
  ConstTensor noise;        // real [groups S E] [optional]
  double noise_std{};       // sigma
  ConstTensor gates_clean;  // real [groups S E]
  ConstTensor gates;        // real [groups S E]
  ConstTensor selected;     // i32 [groups S K]
  double importance_scale{};
  double load_scale{};
  double gshard_scale{};
  double z_scale{};
  Tensor dlogits;  // real [groups S E]
  void check() const;
};

/// Where the rows of the expert buffers come from, and where each assignment went. Buffers of a pass are laid out as
/// [owners][leaves][experts of an owner][groups of a leaf * C]: what one owner receives is contiguous, and so is the
/// fixed-shape block of one leaf and expert.
struct MapSlots {
  ConstTensor selected;     // i32 [leaves groups S K]
  ConstTensor slot;         // i32 [leaves groups S K]
  std::int64_t capacity{};  // C: assignments with slot outside 0 .. C-1 are dropped
  Tensor
      source;  // i32 [owners leaves experts slots], slots = groups * C: the assignment in a row, -1 where it is empty
  Tensor row;  // i32 [leaves groups S K]: the row (index into `source` flattened) of an assignment, -1 when dropped
  void check() const;
};

/// y[r] = x[source[r] div K], zeros where the row is empty.
struct GatherRowsForward {
  ConstTensor x;           // stored [tokens D]
  ConstTensor source;      // i32 [rows]
  std::int64_t choices{};  // K
  Tensor y;                // stored [rows D]
  void check() const;
};
/// dx[t] = dresidual[t] + sum over j of dy[row[t,j]], j ascending, dropped ones left out.
struct GatherRowsBackward {
  ConstTensor dy;         // stored [rows D]
  ConstTensor row;        // i32 [tokens K]
  ConstTensor dresidual;  // real [tokens D] [optional]; may be dx itself
  Tensor dx;              // stored [tokens D]
  void check() const;
};

/// y[t] = residual[t] + sum over j of gate[t,j] * o[row[t,j]], j ascending, dropped ones left out. [V-MoE]
struct CombineRowsForward {
  ConstTensor o;         // stored [rows D]
  ConstTensor row;       // i32 [tokens K]
  ConstTensor gate;      // real [tokens K]
  ConstTensor residual;  // real [tokens D] [optional]; may be y itself
  Tensor y;              // real [tokens D]
  void check() const;
};
/// do[r] = gate[a] * dy[token of a] for the assignment a in the row, zeros where it is empty;
/// dgate[t,j] = <dy[t], o[row[t,j]]>, 0 for a dropped one. [derived]
struct CombineRowsBackward {
  ConstTensor dy;      // real [tokens D]
  ConstTensor o;       // stored [rows D]
  ConstTensor row;     // i32 [tokens K]
  ConstTensor source;  // i32 [rows]
  ConstTensor gate;    // real [tokens K]
  Tensor d_o;          // stored [rows D]; may be o itself
  Tensor dgate;        // real [tokens K]
  void check() const;
};

/// Assignments that each expert was asked for, and those it kept.
struct CountAssignments {
  ConstTensor selected;     // i32 [tokens K]
  ConstTensor slot;         // i32 [tokens K]: -1 = a token that does not count
  std::int64_t capacity{};  // C
  Tensor assigned;          // i64 [E]
  Tensor kept;              // i64 [E]
  Tensor processed;         // i64 [1]: tokens that at least one expert works on
  void check() const;
};

// --- Soft MoE (Puigcerver et al. 2023, arXiv 2308.00951; [V-MoE]). R = E * C slots of a group
// -------------------------
//   xh = x * rsqrt(sum of x^2 + 1e-6), mh = scale * mu * rsqrt(sum over D of mu^2 + 1e-6);  z = xh mh + sigma noise
//   dispatch = softmax of z over the tokens of the group;  combine = softmax of z over the slots

struct SoftRouterForward {
  ConstTensor x;       // real [leaves groups S D]
  ConstTensor mu;      // real [D R]
  ConstTensor scale;   // real [1]
  ConstTensor noise;   // real [leaves groups S R] [optional]: standard normal
  double noise_std{};  // sigma
  ConstTensor valid;   // u8 [leaves groups S] [optional]: a token with 0 has dispatch weight 0
  Tensor x_rnorm;      // real [leaves groups S]: the factor of x
  Tensor mu_rnorm;     // real [R]: the factor of mu, without scale
  Tensor dispatch;     // real [leaves groups S R]
  Tensor combine;      // real [leaves groups S R]
  void check() const;
};
/// [derived]
struct SoftRouterBackward {
  ConstTensor ddispatch;  // real [leaves groups S R]
  ConstTensor dcombine;   // real [leaves groups S R]
  ConstTensor x;          // real [leaves groups S D]
  ConstTensor mu;         // real [D R]
  ConstTensor scale;      // real [1]
  ConstTensor x_rnorm;    // real [leaves groups S]
  ConstTensor mu_rnorm;   // real [R]
  ConstTensor dispatch;   // real [leaves groups S R]
  ConstTensor combine;    // real [leaves groups S R]
  Tensor dlogits;         // real [leaves groups S R]; scratch; may be ddispatch itself
  ConstTensor dresidual;  // real [leaves groups S D] [optional]; may be dx itself
  Tensor dx;              // real [leaves groups S D]
  Tensor dmu;             // real [D R]: summed over the leaves, as all parameter gradients
  Tensor dscale;          // real [1]
  void check() const;
};

/// Slots out of tokens: y[g] = w[g]^T x[g].
struct MixTokensForward {
  ConstTensor x;  // real [groups S D]
  ConstTensor w;  // real [groups S R]
  Tensor y;       // real [groups R D]
  void check() const;
};
/// dw[s,r] = <x[s], dy[r]>, dx = w dy.
struct MixTokensBackward {
  ConstTensor dy;  // real [groups R D]
  ConstTensor x;   // real [groups S D]
  ConstTensor w;   // real [groups S R]
  Tensor dw;       // real [groups S R]
  Tensor dx;       // real [groups S D]
  void check() const;
};
/// Tokens out of slots: y[g] = residual[g] + w[g] o[g].
struct MixSlotsForward {
  ConstTensor o;         // real [groups R D]
  ConstTensor w;         // real [groups S R]
  ConstTensor residual;  // real [groups S D] [optional]; may be y itself
  Tensor y;              // real [groups S D]
  void check() const;
};
/// dw[s,r] = <dy[s], o[r]>, d_o = w^T dy.
struct MixSlotsBackward {
  ConstTensor dy;  // real [groups S D]
  ConstTensor o;   // real [groups R D]
  ConstTensor w;   // real [groups S R]
  Tensor dw;       // real [groups S R]
  Tensor d_o;      // real [groups R D]; not o itself
  void check() const;
};

}  // namespace vitrail
