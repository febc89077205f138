#pragma once
// Small models of every kind, whose tensors the tests of namings write and read.

#include "model/config.hpp"

namespace vitrail::testing {

/// 24 x 24 pixels in patches of 8 x 8; 3 blocks.
inline ModelConfig vit_sample() {
  ModelConfig c;
  c.image_height = c.image_width = 24;
  c.patch_rows = c.patch_columns = 8;
  c.width = 8;
  c.mlp_width = 12;
  c.heads = 2;
  c.blocks = 3;
  c.classes = 5;
  return c;
}
/// Blocks 1 and 2 have 4 experts.
inline ModelConfig sparse_sample() {
  ModelConfig c = vit_sample();
  c.moe_blocks = {1, 2};
  c.experts = 4;
  return c;
}
inline ModelConfig soft_sample() {
  ModelConfig c = sparse_sample();
  c.router.kind = RouterKind::soft;
  c.router.group_images = 1;
  c.router.capacity = {.factor = std::nullopt, .slots = 3};
  return c;
}
inline ModelConfig map_sample() {
  ModelConfig c = vit_sample();
  c.classifier = Classifier::map;
  c.representation = 6;
  return c;
}
inline ModelConfig gap_sample() {
  ModelConfig c = vit_sample();
  c.classifier = Classifier::gap;
  c.qk_norm = true;
  c.channels = 1;
  return c;
}

}  // namespace vitrail::testing
