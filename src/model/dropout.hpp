#pragma once
// Dropouts of a training pass: which numbers decide over which elements. The index of an element counts over the whole
// step and all experts (leaf, expert, slot or token, channel), so that a decision does not depend on the layout.

#include "model/activations.hpp"
#include "ops/layers.hpp"

namespace vitrail {

/// Where in a block; never renumber: runs would change. The layer of the random numbers is block * 8 + place.
enum class DropoutPlace : std::uint32_t {
  attention = 0,         ///< probabilities
  attention_output = 1,  ///< [leaves N D]
  hidden = 2,            ///< behind the GELU, [leaves N F] or rows of experts
  output = 3,            ///< of the MLP or of experts
  attention_depth = 4,   ///< stochastic depth of the attention half, per image
  mlp_depth = 5,         ///< of the other half
  embedding = 6,         ///< of block 0: behind the position embedding
};

/// Tensors [leaves N width] of this rank's leaves.
DropoutDraw token_dropout(const ModelConfig& config, const Activations& acts, std::int64_t block, DropoutPlace place,
                          std::int64_t width);
/// Rows [sources E/EP slots width] of this rank's experts, at config.expert_dropout.
DropoutDraw expert_dropout(const ModelConfig& config, const Activations& acts, std::int64_t block, DropoutPlace place,
                           std::int64_t width);
/// Attention probabilities.
DropoutDraw attention_dropout(const ModelConfig& config, const Activations& acts, std::int64_t block);
/// Branches [leaves N D] of whole images; the rate rises linearly from 0 at the first block to
/// config.stochastic_depth at the last. (Huang et al. 2016)
DropoutDraw depth_dropout(const ModelConfig& config, const Activations& acts, std::int64_t block, DropoutPlace place);

}  // namespace vitrail
