#pragma once
// From the last block to the logits: encoder_norm, pooling (class token, first token, mean, or attention by a probe),
// pre_logits, head. [V-MoE]

#include "model/workers.hpp"

namespace vitrail {

/// x [leaves N D], the residual stream after the last block -> acts.encoder_norm, pooled, pre_logits, logits.
void head_forward(Ops& ops, const ModelConfig& config, const VitMoeParams& params, ConstTensor x, Activations& acts);

/// acts.dlogits -> acts.scratch.dx, the gradient of x, and the gradients of everything above (overwritten).
void head_backward(Ops& ops, const ModelConfig& config, const VitMoeParams& params, ConstTensor x, Activations& acts,
                   VitMoeParams& gradients);

}  // namespace vitrail
