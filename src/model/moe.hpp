#pragma once
// The sparse half of a block: router, dispatch, experts, combine. [V-MoE, derived] Soft MoE is in model/soft_moe.

#include "model/workers.hpp"

namespace vitrail {

/// y = residual + sum over the kept choices of weight * expert(x). x, y [leaves N D]; residual likewise, or left out.
void moe_forward(const Workers& workers, const ModelConfig& config, const BlockParams& params, ConstTensor x,
                 ConstTensor residual, Mode mode, Activations& acts, MoeActivations& moe, Tensor y);

/// dx = gradient of x, without the residual's. `group_scale` = 1 / routing groups of the whole step. Overwrites the
/// gradients of router and experts, and moe.o.
void moe_backward(const Workers& workers, const ModelConfig& config, const BlockParams& params, ConstTensor x,
                  ConstTensor dy, double group_scale, Activations& acts, MoeActivations& moe, BlockParams& gradients,
                  Tensor dx);

}  // namespace vitrail
