#pragma once
// The experts, and the way of rows to them and back. [V-MoE, derived]
//
// Rows at home are [owners leaves E/EP slots D]: part r belongs to the experts of rank r. There they are
// [sources E/EP slots D]. With exchange_bf16 they are rounded to bfloat16 on the way, also when nothing leaves the
// rank: forwards rows and outputs, backwards the gradients of both.

#include "model/workers.hpp"

namespace vitrail {

/// Where the rows for the experts are to be put, [owners leaves E/EP slots D], before experts_forward.
Tensor experts_input(const Workers& workers, const Activations& acts, const MoeActivations& moe);

/// The rows in experts_input() -> moe.expert_x, moe.expert_u, and the experts' outputs, at home again, in moe.o.
void experts_forward(const Workers& workers, const ModelConfig& config, const BlockParams& params, Mode mode,
                     Activations& acts, MoeActivations& moe);

/// moe.o, now the gradient of the outputs at home -> the gradient of the rows, at home, in acts.scratch.rows_home.
/// Overwrites the gradients of the experts.
void experts_backward(const Workers& workers, const ModelConfig& config, const BlockParams& params, Activations& acts,
                      MoeActivations& moe, BlockParams& gradients);

}  // namespace vitrail
