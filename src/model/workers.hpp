#pragma once
// What the layers of a rank work with.

#include "comm/communicator.hpp"
#include "model/activations.hpp"
#include "model/params.hpp"
#include "ops/ops.hpp"

namespace vitrail {

/// Training draws noise and dropouts and computes all losses; evaluation has clean gates and no load loss. [V-MoE]
enum class Mode : std::uint8_t { training, evaluation };

struct Workers {
  Ops& ops;
  Communicator& expert_ranks;  ///< the EP ranks that share one copy of all experts
};

}  // namespace vitrail
