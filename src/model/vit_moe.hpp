#pragma once
// The whole model over one pass: images to logits, loss, and back. [V-MoE]

#include <cstdint>
#include <optional>
#include <string>

#include "model/block.hpp"

namespace vitrail {

enum class Loss : std::uint8_t { softmax, sigmoid };

/// acts.images -> acts.logits, and everything in between. In training, acts.random must place the pass, and
/// acts.blocks[..].moe.noise be filled.
void vit_moe_forward(const Workers& workers, const ModelConfig& config, const VitMoeParams& params, Mode mode,
                     Activations& acts);

/// acts.logits, acts.targets -> acts.loss per image, acts.predicted; with `gradient` also acts.dlogits, scaled by
/// `image_scale` = 1 / images of the whole step.
void vit_moe_loss(Ops& ops, Loss loss, double image_scale, bool gradient, Activations& acts);

/// acts.dlogits -> every parameter gradient (overwritten): the sum over this pass's leaves, for the experts over the
/// leaves of all ranks that share them. `group_scale` = 1 / routing groups of the whole step.
void vit_moe_backward(const Workers& workers, const ModelConfig& config, const VitMoeParams& params, double group_scale,
                      Activations& acts, VitMoeParams& gradients);

/// Fills the noise of every MoE block: standard normal numbers, a function of (seed, step, block, global token,
/// expert or slot), for the pass that acts.random places.
void draw_router_noise(Ops& ops, const ModelConfig& config, Activations& acts);

/// Where the first NaN or Inf of a forward pass stands ("encoderblock_3 (attention)", of Recompute::block without the
/// half), nothing when all is finite. Waits for the device and allocates.
std::optional<std::string> first_not_finite(Device& device, Ops& ops, const Activations& acts);

}  // namespace vitrail
