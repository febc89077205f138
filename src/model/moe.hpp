#pragma once
// The sparse half of a block: router, dispatch, experts, combine. [V-MoE, derived]

#include "comm/communicator.hpp"
#include "model/activations.hpp"
#include "model/params.hpp"
#include "ops/ops.hpp"

namespace vitrail {

/// Training draws noise and computes all losses; evaluation has clean gates and no load loss. [V-MoE]
enum class Mode : std::uint8_t { training, evaluation };

/// What the layers of a rank work with.
struct Workers {
  Ops& ops;
  Communicator& expert_ranks;  ///< the EP ranks that share one copy of all experts
};

/// y = residual + sum over the kept choices of gate * expert(x). x, residual, y [leaves N D].
void moe_forward(const Workers& workers, const ModelConfig& config, const BlockParams& params, ConstTensor x,
                 ConstTensor residual, Mode mode, Activations& acts, MoeActivations& moe, Tensor y);

/// dx = gradient of x, without the residual's. `group_scale` = 1 / routing groups of the whole step. Overwrites the
/// gradients of router and experts, and moe.o.
void moe_backward(const Workers& workers, const ModelConfig& config, const BlockParams& params, ConstTensor x,
                  ConstTensor dy, double group_scale, Activations& acts, MoeActivations& moe, BlockParams& gradients,
                  Tensor dx);

}  // namespace vitrail
