#pragma once
// The sparse half of a block with Soft MoE: every slot gets a mean of all tokens of its group, every token a mean of
// all slots' outputs (Puigcerver et al. 2023, arXiv 2308.00951; [V-MoE]). The experts and the way to them are those of
// the other routers: slot r of a group travels as "token" r with one choice. Arguments as in model/moe.hpp.

#include "model/workers.hpp"

namespace vitrail {

void soft_moe_forward(const Workers& workers, const ModelConfig& config, const BlockParams& params, ConstTensor x,
                      ConstTensor residual, Mode mode, Activations& acts, MoeActivations& moe, Tensor y);

void soft_moe_backward(const Workers& workers, const ModelConfig& config, const BlockParams& params, ConstTensor x,
                       ConstTensor dy, Activations& acts, MoeActivations& moe, BlockParams& gradients, Tensor dx);

}  // namespace vitrail
