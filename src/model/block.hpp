#pragma once
// One pre-LN block: x' = x + attention(LN_0(x)); y = x' + MLP or MoE (LN_1(x')). [V-MoE]

#include "model/moe.hpp"

namespace vitrail {

/// x [leaves N D] -> block.x.
void block_forward(const Workers& workers, const ModelConfig& config, const BlockParams& params, ConstTensor x,
                   Mode mode, Activations& acts, BlockActivations& block);

/// acts.scratch.dx: on entry the gradient of block.x, on return that of x. Overwrites the block's parameter gradients.
/// After the forward pass in training mode of all blocks, or the backward pass of the next; begins with what
/// acts.shape.recompute says, exchanges included.
void block_backward(const Workers& workers, const ModelConfig& config, const BlockParams& params, ConstTensor x,
                    double group_scale, Activations& acts, BlockActivations& block, BlockParams& gradients);

}  // namespace vitrail
