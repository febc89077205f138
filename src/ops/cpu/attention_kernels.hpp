#pragma once
// Attention of one image and head. The scores exist only as a block of kQueryBlock rows in the caller's scratch.

#include <cstdint>

#include "ops/dropout_mask.hpp"

namespace vitrail::cpu {

/// Query rows that are treated together. Fixed: the order of the sums of dk and dv depends on it.
inline constexpr std::int64_t kQueryBlock = 64;

/// Consecutive tokens of a head are `stride` elements apart, in all tensors.
struct HeadShape {
  std::int64_t queries;  // Tq
  std::int64_t keys;     // T
  std::int64_t width;    // Dh
  std::int64_t stride;   // H * Dh
};

/// Pointers are to the head's first element of token 0.
struct AttentionHead {
  const float* q;
  const float* k;
  const float* v;
  float* out;
  float* log_sum_exp;  // [queries]
  HeadShape shape;
  const DropoutMask* dropout;  // of the probabilities, or nullptr
  std::uint64_t first_index;   // of its query 0 and key 0; key by key, then query by query
  float* scratch;              // attention_scratch(shape) floats, 64-byte aligned
  bool bf16 = false;           // q, k, v and dout are rounded to bf16 as inputs of products; probabilities are not
};
void attention_head(const AttentionHead& a);

struct AttentionHeadBackward {
  const float* dout;
  const float* q;
  const float* k;
  const float* v;
  const float* out;
  const float* log_sum_exp;
  float* dq;
  float* dk;
  float* dv;
  HeadShape shape;
  const DropoutMask* dropout;
  std::uint64_t first_index;
  float* scratch;
  bool bf16 = false;
};
void attention_head_backward(const AttentionHeadBackward& a);

/// Floats of scratch that one head needs in either direction.
std::int64_t attention_scratch(const HeadShape& shape);

}  // namespace vitrail::cpu
