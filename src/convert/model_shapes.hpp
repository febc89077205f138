#pragma once
// A model's configuration, as far as the names and shapes of its tensors tell it.

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "model/config.hpp"

namespace vitrail {

/// What is known of a model from elsewhere, where its tensors do not say it.
struct ModelHints {
  std::optional<std::int64_t> heads;  ///< of timm's files: there is none of it in the shapes
  std::optional<std::int64_t> image_height, image_width;
  std::optional<Classifier> classifier;        ///< gap or first: both have no class token
  std::optional<PositionEmbedding> positions;  ///< sincos2d or none: both have no parameters
};

struct ShapedModel {
  ModelConfig model;  ///< what shapes do not show is as in ModelConfig itself
  /// The position embeddings are those of the patches alone, though there is a class token (which then gets none).
  bool patches_only = false;
  /// The size of the images is known: from learned positions or hints.
  bool image_is_known = true;
  std::vector<std::string> assumptions;  ///< for people: what neither shapes nor hints say
};

/// `shapes`: those of a model's tensors under the names of the table (model/params.hpp). Needs of it: embedding/kernel,
/// cls, pos_embedding, pre_logits/kernel, head/kernel, MapHead/probe and, per block, SelfAttention/query/kernel,
/// query_ln/scale, Mlp/Dense_0/kernel, and Moe/... of those. Error (checkpoint) naming `file` and the tensor when one
/// without which there is no model is missing, or has another number of axes; (usage) when the number of positions is
/// not that of square images and the hints name no other, and for a model that ModelConfig::check refuses.
ShapedModel model_of_shapes(const std::map<std::string, Shape>& shapes, const ModelHints& hints,
                            const std::string& file);

}  // namespace vitrail
