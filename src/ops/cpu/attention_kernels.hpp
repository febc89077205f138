#pragma once
// Attention of some heads of one image. The scores exist only as a block of queries in the caller's scratch. T: float
// or Bf16, of the tensors; what is computed between products is f32.

#include <cstdint>

#include "base/bf16.hpp"
#include "ops/dropout_mask.hpp"

namespace vitrail::cpu {

/// A token's heads follow each other; consecutive tokens are `heads` * `width` elements apart, in all tensors.
struct HeadShape {
  std::int64_t queries;  // Tq
  std::int64_t keys;     // T
  std::int64_t heads;    // H, of the tensors
  std::int64_t width;    // Dh
};

/// Heads that are computed side by side, where a call has a multiple of so many.
std::int64_t heads_together(const HeadShape& shape);

/// How products are made.
enum class AttentionProducts : std::uint8_t {
  f32,
  f32_of_rounded,  ///< q, k, v and dout are rounded to bf16; probabilities and their gradients are not
  bf16_pairs,      ///< by the instructions of AVX512_BF16: these are rounded, too. Of bf16 and an even width
};

/// Pointers are to the first head's first element of token 0.
template <class T>
struct AttentionHeads {
  const T* q;
  const T* k;
  const T* v;
  T* out;
  float* log_sum_exp;  // [count queries]
  HeadShape shape;
  std::int64_t count;          // heads that are computed: bits do not depend on how they are shared out among calls
  const DropoutMask* dropout;  // of the probabilities, or nullptr
  std::uint64_t first_index;   // of query 0 and key 0; key by key, then query by query, then head by head
  float* scratch;              // attention_scratch(shape) floats, 64-byte aligned
  AttentionProducts products;
};
void attention_heads(const AttentionHeads<float>& a);
void attention_heads(const AttentionHeads<Bf16>& a);

/// The forward pass's `out` is not needed: <dout, out> of a query is the sum over the keys of p dp, which is at hand.
template <class T>
struct AttentionHeadsBackward {
  const T* dout;
  const T* q;
  const T* k;
  const T* v;
  const float* log_sum_exp;
  T* dq;
  T* dk;
  T* dv;
  HeadShape shape;
  std::int64_t count;
  const DropoutMask* dropout;
  std::uint64_t first_index;
  float* scratch;
  AttentionProducts products;
};
void attention_heads_backward(const AttentionHeadsBackward<float>& a);
void attention_heads_backward(const AttentionHeadsBackward<Bf16>& a);

/// Floats of scratch that a thread needs in either direction.
std::int64_t attention_scratch(const HeadShape& shape, bool dropout, AttentionProducts products);

}  // namespace vitrail::cpu
