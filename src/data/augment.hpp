#pragma once
// Random changes of training images, as pure functions of (seed, epoch, sample): the same whichever rank makes them.

#include <cstdint>

#include "data/shard.hpp"

namespace vitrail {

struct Augmentation {
  std::int64_t shift = 0;  ///< moved by up to so many pixels each way, uniformly; what comes in from outside is 0
  bool flip = false;       ///< mirrored left to right with probability 1/2
};

/// What is drawn for one image.
struct AugmentationDraw {
  std::int64_t down = 0;   ///< -shift .. shift
  std::int64_t right = 0;  ///< -shift .. shift
  bool flip = false;
};
AugmentationDraw draw_augmentation(const Augmentation& augmentation, std::uint64_t seed, std::int64_t epoch,
                                   std::int64_t sample);

/// Flips, then shifts. from, to: u8 [height, width, channels], not the same memory.
void augment(const AugmentationDraw& draw, const ImageShape& shape, const std::uint8_t* from, std::uint8_t* to);

}  // namespace vitrail
