#pragma once
// Attention's kernels, as the verbs (attention.cu) call them. All tensors of a call have one element type: bf16 goes to
// the tensor cores (attention_forward.cu, attention_backward_*.cu), f32 to plain FMAs (attention_f32_*.cu).

#include <cstdint>

#include <cuda_runtime.h>

#include "ops/cuda/stored.hpp"
#include "ops/dropout_mask.hpp"

namespace vitrail::cuda {

inline constexpr int kWidestBf16Head = 128;
inline constexpr int kWidestFloatHead = 256;

struct AttentionShape {
  std::int64_t images;  // leaves * B
  int heads, queries, keys, width;
};

/// The decisions of a dropout of probabilities, for kernels.
struct DropoutBits {
  Philox random;
  std::uint64_t first;  ///< index of image 0, head 0, query 0, key 0
  std::uint64_t least;  ///< kept when its bits are at least this
  float scale;          ///< of what is kept
  bool drops;           ///< false: nothing is drawn, all is kept
};

template <class T>
struct AttentionForwardCall {
  AttentionShape shape;
  const T *q, *k, *v;  // [images tokens heads width]
  T* out;
  float* log_sum_exp;  // [images heads queries]
  DropoutBits dropout;
  cudaStream_t stream;
};
template <class T>
struct AttentionBackwardCall {
  AttentionShape shape;
  const T *dout, *q, *k, *v, *out;
  const float* log_sum_exp;
  T *dq, *dk, *dv;
  float2* row_sums;  // [images heads queries], scratch: what the first kernel tells the second about a query
  DropoutBits dropout;
  cudaStream_t stream;
};

void run_attention_forward(const AttentionForwardCall<Bfloat16>& call);
void run_attention_forward(const AttentionForwardCall<float>& call);

/// dq, and row_sums for the gradients of keys and values: to be called first.
void run_attention_backward_queries(const AttentionBackwardCall<Bfloat16>& call);
void run_attention_backward_queries(const AttentionBackwardCall<float>& call);
/// dk and dv.
void run_attention_backward_keys(const AttentionBackwardCall<Bfloat16>& call);
void run_attention_backward_keys(const AttentionBackwardCall<float>& call);

}  // namespace vitrail::cuda
