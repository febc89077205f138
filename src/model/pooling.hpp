#pragma once
// How the tokens of an image become one vector. [V-MoE]

#include "model/workers.hpp"

namespace vitrail {

/// acts.encoder_norm.y -> acts.pooled [I D].
void pool_forward(Ops& ops, const ModelConfig& config, const VitMoeParams& params, Activations& acts);

/// acts.scratch.dpooled -> acts.scratch.dnorm, the gradient of encoder_norm.y, and the gradients of the MAP head.
void pool_backward(Ops& ops, const ModelConfig& config, const VitMoeParams& params, Activations& acts,
                   VitMoeParams& gradients);

}  // namespace vitrail
