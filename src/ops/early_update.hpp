#pragma once
// AdamW of a weight where its gradient is made. Nothing of the gradient is kept then: it is neither written to memory
// nor read again, and needs no memory of its own. What must know all gradients beforehand cannot be had with it:
// clipping by global norm, sums over passes or ranks.

#include <cstdint>

#include "device/tensor.hpp"

namespace vitrail {

/// AdamWStep (ops/training.hpp) of one weight, with the same bits as the gradient and that verb one after the other.
/// What uses the weight in the same verb uses it as it was before.
struct EarlyUpdate {
  double decay = 0;
  double multiplier = 1;  // of the gradient
  bool frozen = false;    // the parameter stays; its moments move
  double learning_rate{};
  double beta1 = 0.9;
  double beta2 = 0.999;
  double epsilon = 1e-8;
  std::int64_t updates = 1;  // this one included
  Tensor parameter, m, v;    // real, of the weight's shape
};

}  // namespace vitrail
