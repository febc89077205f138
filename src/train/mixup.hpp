#pragma once
// Mixup (Zhang et al. 2018): every image of a training step is mixed with the m-1 that follow it in its leaf, and so
// are the targets (ops/training.hpp, MixImages). The weights are a draw from a symmetric Dirichlet distribution, the
// largest first, so that an image's own part is the largest. [V-MoE], with the leaf in the place of a device's batch,
// so that no result depends on the number of ranks.

#include <cstdint>
#include <vector>

#include "device/tensor.hpp"

namespace vitrail {

/// Images that share a draw of the weights.
enum class MixupDraw : std::uint8_t { step, leaf, image };

struct Mixup {
  double concentration = 0;  ///< of the Dirichlet distribution: all m parameters; positive and finite when m > 1
  MixupDraw draw = MixupDraw::leaf;
  std::int64_t images = 1;  ///< m; 1: no mixup
};

/// A draw of m weights from Dirichlet(c, ..., c): they are positive or 0, and their sum is 1, to round-off. A pure
/// function of its arguments; `index` counts the draws of a step.
std::vector<double> dirichlet(double concentration, std::int64_t m, std::uint64_t seed, std::uint64_t step,
                              std::int64_t index);

/// Draws of m numbers, one after the other -> weights: real [leaves B m], host memory. Every draw is sorted descending
/// and given to an equal run of consecutive images: there are 1, leaves or leaves*B draws.
void set_mixup_weights(std::vector<double> draws, Tensor weights);

/// The weights of the leaves that begin with number `first_leaf` of the step's batch: real [leaves B m]. A pure
/// function of seed, step and the global number of the leaf or image.
void draw_mixup(const Mixup& mixup, std::uint64_t seed, std::uint64_t step, std::int64_t first_leaf, Tensor weights);

}  // namespace vitrail
