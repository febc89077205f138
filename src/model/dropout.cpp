#include "model/dropout.hpp"

#include <algorithm>

namespace vitrail {

namespace {

DropoutDraw draw_of(const Activations& acts, double rate, std::int64_t block, DropoutPlace place) {
  DropoutDraw draw;
  draw.rate = rate;
  draw.seed = acts.random.seed;
  draw.step = acts.random.step;
  draw.layer = static_cast<std::uint32_t>(block) * 8 + static_cast<std::uint32_t>(place);
  return draw;
}

}  // namespace

DropoutDraw token_dropout(const ModelConfig& c, const Activations& acts, std::int64_t block, DropoutPlace place,
                          std::int64_t width) {
  DropoutDraw draw = draw_of(acts, c.dropout, block, place);
  draw.first = static_cast<std::uint64_t>(acts.random.first_leaf * acts.shape.leaf_images * c.tokens() * width);
  return draw;
}

DropoutDraw expert_dropout(const ModelConfig& c, const Activations& acts, std::int64_t block, DropoutPlace place,
                           std::int64_t width) {
  DropoutDraw draw = draw_of(acts, c.expert_dropout, block, place);
  const std::int64_t groups = acts.shape.leaf_images * c.tokens() / c.group_tokens();
  const std::int64_t expert = groups * c.slots() * width;  // elements of one leaf and expert
  draw.first =
      static_cast<std::uint64_t>((acts.random.first_source_leaf * c.experts + acts.random.first_expert) * expert);
  draw.run = c.experts / acts.shape.expert_parallel * expert;
  draw.stride = c.experts * expert;
  return draw;
}

DropoutDraw attention_dropout(const ModelConfig& c, const Activations& acts, std::int64_t block) {
  DropoutDraw draw = draw_of(acts, c.attention_dropout, block, DropoutPlace::attention);
  const std::int64_t image = c.heads * c.tokens() * c.tokens();
  draw.first = static_cast<std::uint64_t>(acts.random.first_leaf * acts.shape.leaf_images * image);
  return draw;
}

DropoutDraw depth_dropout(const ModelConfig& c, const Activations& acts, std::int64_t block, DropoutPlace place) {
  const double share = static_cast<double>(block) / static_cast<double>(std::max<std::int64_t>(c.blocks - 1, 1));
  DropoutDraw draw = draw_of(acts, c.stochastic_depth * share, block, place);
  draw.first = static_cast<std::uint64_t>(acts.random.first_leaf * acts.shape.leaf_images);
  draw.share = c.tokens() * c.width;
  return draw;
}

}  // namespace vitrail
