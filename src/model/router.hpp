#pragma once
// The router of a sparse layer: tokens to gates, choices, slots and the map of rows, and back. [V-MoE, derived]

#include "model/workers.hpp"

namespace vitrail {

/// x [leaves N D] -> everything of `moe` up to source and row. Not for Soft MoE.
void router_forward(Ops& ops, const ModelConfig& config, const BlockParams& params, ConstTensor x, Mode mode,
                    const Activations& acts, MoeActivations& moe);

/// acts.scratch.dgate, the gradient of moe.weight (overwritten), and the losses, scaled by `group_scale` -> dx
/// (overwritten) and the gradient of the router.
void router_backward(Ops& ops, const ModelConfig& config, const BlockParams& params, ConstTensor x, double group_scale,
                     Activations& acts, MoeActivations& moe, BlockParams& gradients, Tensor dx);

/// The noise of a training pass, if the configuration has any, else nothing.
ConstTensor router_noise(const ModelConfig& config, const MoeActivations& moe, Mode mode);
/// Its standard deviation: noise_std / E, of Soft MoE noise_std.
double router_noise_deviation(const ModelConfig& config);

}  // namespace vitrail
