#pragma once
// The softmaxes of the routers.

#include "ops/cuda/stored.hpp"
#include "ops/cuda/token_lanes.hpp"

namespace vitrail::cuda {

struct Gates {
  const float* logits;  // nullptr: the gates are given
  const float* noise;   // nullptr: none
  float sigma;
  float* clean;
  float* gates;
  std::int64_t tokens;
  int experts;
};

template <class Arguments>
Gates gates_of(const Arguments& a) {
  return {a.logits ? data_of<float>(a.logits) : nullptr,
          a.noise ? data_of<float>(a.noise) : nullptr,
          static_cast<float>(a.noise_std),
          a.logits ? data_of<float>(a.gates_clean) : nullptr,
          data_of<float>(a.gates),
          a.gates.shape[0] * a.gates.shape[1],
          static_cast<int>(a.gates.shape[2])};
}

/// p = the gates of a token, computed and stored unless they are given. Lanes of no token work on the last one.
template <int kLanes, int kPerLane>
__device__ __forceinline__ void find_gates(const Gates& a, const TokenLane<kLanes>& at, float (&p)[kPerLane]) {
  const bool there = at.token < a.tokens;
  const std::int64_t first = (there ? at.token : a.tokens - 1) * a.experts;
  if (a.logits == nullptr) return load_experts<kLanes>(a.gates + first, at.lane, a.experts, p);
  float z[kPerLane];
  load_experts<kLanes>(a.logits + first, at.lane, a.experts, z);
  softmax<kLanes>(z, at.lane, a.experts, p);
  if (there) store_experts<kLanes>(p, at.lane, a.experts, a.clean + first);
  if (a.noise != nullptr) {
    float noise[kPerLane];
    load_experts<kLanes>(a.noise + first, at.lane, a.experts, noise);
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) z[i] = fmaf(a.sigma, noise[i], z[i]);
    softmax<kLanes>(z, at.lane, a.experts, p);
  }
  if (there) store_experts<kLanes>(p, at.lane, a.experts, a.gates + first);
}

}  // namespace vitrail::cuda
