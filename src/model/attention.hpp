#pragma once
// Multi-head attention, between the projections to q, k, v and the output projection. [V-MoE]

#include "model/activations.hpp"
#include "model/params.hpp"
#include "ops/ops.hpp"

namespace vitrail {

/// attention.q, k, v -> attention.out. With qk_norm, queries and keys are normalised first.
void attention_forward(Ops& ops, const ModelConfig& config, const AttentionParams& params, const Activations& acts,
                       const DropoutDraw& dropout, AttentionActivations& attention);

/// dout (like attention.out) -> dq (like q), dk, dv (like k). Overwrites the gradients of the norms.
void attention_backward(Ops& ops, const ModelConfig& config, const AttentionParams& params, const Activations& acts,
                        const DropoutDraw& dropout, const AttentionActivations& attention, ConstTensor dout, Tensor dq,
                        Tensor dk, Tensor dv, AttentionParams& gradients);

}  // namespace vitrail
