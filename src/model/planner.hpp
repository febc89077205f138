#pragma once
// What a model costs, from its configuration alone: nothing is allocated.

#include <cstdint>

#include "model/config.hpp"

namespace vitrail {

struct ModelPlan {
  std::int64_t parameters = 0;         ///< all of them
  std::int64_t dense_parameters = 0;   ///< what every rank holds; routers too
  std::int64_t expert_parameters = 0;  ///< what expert-parallel ranks share out
  /// Parameters that one token meets on its way: the dense ones, and those of the experts that see it in every MoE
  /// block. Top-k: K of the E experts (though capacity may drop some). Experts choice: the mean, E * C / S. Soft MoE:
  /// all, as every slot has a part of every token.
  std::int64_t active_parameters = 0;
  double forward_flops = 0;  ///< of one image (forward_flops_per_image)
};

/// Error (usage) for a model that cannot be.
ModelPlan plan_model(const ModelConfig& config);

/// Floating-point operations of training on so many images: a backward pass costs two forward passes. [V-MoE]
double training_flops(const ModelPlan& plan, double images);

}  // namespace vitrail
