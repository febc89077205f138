#pragma once
// Verbs of the sparse layer: the noisy top-k router, its losses, and the movement of rows to and from the experts.
// Conventions as in ops/layers.hpp. A token is the index of a row of the call: (leaf, group, place in the group).
// `assignment` = token * K + j numbers the pair of a token and its choice of rank j (0 = largest gate).

#include <cstdint>

#include "device/tensor.hpp"

namespace vitrail {

/// In which order the tokens of a group take slots, inside each choice rank. [V-MoE]
enum class TokenOrder : std::uint8_t {
  vanilla,     ///< as they come
  prioritized  ///< Batch Prioritized Routing: largest gate first, ties by place
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
  Tensor gates_clean;  // real [groups S E]: softmax(z); goes with logits
  Tensor gates;        // real [groups S E]: softmax(z_noisy); equal to gates_clean without noise
  Tensor selected;     // i32 [groups S K]: experts by descending gate
  Tensor slot;         // i32 [groups S K]: place in the expert's buffer of the group
  Tensor gate;         // real [groups S K]: gates at `selected`
  void check() const;
};

/// The auxiliary losses of every group, not weighted. CV2(v) = population variance / mean^2. [V-MoE]
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
  ConstTensor x;           // real [tokens D]
  ConstTensor source;      // i32 [rows]
  std::int64_t choices{};  // K
  Tensor y;                // real [rows D]
  void check() const;
};
/// dx[t] = dresidual[t] + sum over j of dy[row[t,j]], j ascending, dropped ones left out.
struct GatherRowsBackward {
  ConstTensor dy;         // real [rows D]
  ConstTensor row;        // i32 [tokens K]
  ConstTensor dresidual;  // real [tokens D] [optional]; may be dx itself
  Tensor dx;              // real [tokens D]
  void check() const;
};

/// y[t] = residual[t] + sum over j of gate[t,j] * o[row[t,j]], j ascending, dropped ones left out. [V-MoE]
struct CombineRowsForward {
  ConstTensor o;         // real [rows D]
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
  ConstTensor o;       // real [rows D]
  ConstTensor row;     // i32 [tokens K]
  ConstTensor source;  // i32 [rows]
  ConstTensor gate;    // real [tokens K]
  Tensor d_o;          // real [rows D]; may be o itself
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
  void check() const;
};

}  // namespace vitrail
