#pragma once
// What the tensors of other software mean: which of theirs is which of ours, in what shape and order of axes. Our own
// names are those of the official V-MoE parameters, so that only two namings differ:
//
//   official   the V-MoE parameter tree of flax; at the root, or below params/ of a training state [V-MoE]
//   vit_npz    ViT, AugReg and big_vision .npz: Transformer/encoderblock_0/MultiHeadDotProductAttention_1/query/kernel
//              ... with the old (_1, _2, _3) or the new (_0, _0, _1, _0) suffixes; the old ones are written
//   timm       safetensors: blocks.0.attn.qkv.weight ..., weights [out in]; convert/timm_names.hpp
//
// docs/checkpoints.md has the whole tables.

#include <span>
#include <string>
#include <vector>

#include "convert/mapped_source.hpp"
#include "convert/model_shapes.hpp"
#include "model/config.hpp"

namespace vitrail {

enum class Naming : std::uint8_t { official, vit_npz, timm };

/// A model that was found among the tensors of a file.
struct NamedModel {
  ShapedModel shaped;
  std::string prefix;                 ///< of the parameters in the file: "", "params/" ...
  std::vector<TensorPart> parts;      ///< every tensor of the model's table (to) of the file's (from)
  std::vector<std::string> left_out;  ///< tensors outside of the prefix: the optimizer's, counters
};

/// Finds a model's parameters among the tensors of `file`. `prefix`: where to look for them; none: at the usual places.
/// Error (checkpoint) that names the tensor when one is missing, too many or of a shape that does not fit the others;
/// (usage) for a model that we do not have (timm's fc_norm).
NamedModel find_model(Naming naming, std::span<const TensorInfo> tensors, const std::string& file,
                      const ModelHints& hints, const std::optional<std::string>& prefix = std::nullopt);

/// The other way: the file's tensors (to) of the model's (from). Error (usage) for a model that the naming has no words
/// for: sparse blocks in vit_npz.
std::vector<TensorPart> file_parts(Naming naming, const ModelConfig& model);

}  // namespace vitrail
