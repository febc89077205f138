#pragma once
// Attention of one image and head. The T x T scores exist only as a block of kQueryBlock rows in the caller's scratch.

#include <cstdint>

namespace vitrail::cpu {

/// Query rows that are treated together. Fixed: the order of the sums of dk and dv depends on it.
inline constexpr std::int64_t kQueryBlock = 64;

/// Pointers are to the head's first element of token 0; consecutive tokens are `stride` elements apart.
struct AttentionHead {
  const float* q;
  const float* k;
  const float* v;
  float* out;
  float* log_sum_exp;  // [tokens]
  std::int64_t tokens;
  std::int64_t width;   // Dh
  std::int64_t stride;  // H * Dh
  float* scratch;       // attention_scratch(tokens, width) floats, 64-byte aligned
  bool bf16 = false;    // the inputs of products are rounded to bf16
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
  std::int64_t tokens;
  std::int64_t width;
  std::int64_t stride;
  float* scratch;
  bool bf16 = false;
};
void attention_head_backward(const AttentionHeadBackward& a);

/// Floats of scratch that one head needs in either direction.
std::int64_t attention_scratch(std::int64_t tokens, std::int64_t width);

}  // namespace vitrail::cpu
