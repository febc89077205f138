#pragma once
// timm's VisionTransformer, as its state dictionary is called, and what we call the MoE parts that timm has not:
//
//   patch_embed.proj.weight [D channels rows columns]    cls_token [1 1 D]     pos_embed [1 T D]
//   blocks.N.norm1, norm2, norm .weight .bias [D]
//   blocks.N.attn.qkv.weight [3D D]: the rows of q, then k, then v, each head after head      .bias [3D]
//   blocks.N.attn.proj, mlp.fc1, mlp.fc2, head, pre_logits.fc .weight [out in] .bias [out]
//   blocks.N.attn.q_norm.weight, k_norm.weight [Dh]
//   attn_pool.latent [1 1 D], .q .kv [2D D] .proj .norm .mlp.fc1 .mlp.fc2 ...            (attention pooling)
//   blocks.N.moe.router.weight [E D], or .mu [D E C] and .scale [] of Soft MoE
//   blocks.N.moe.experts.fc1.weight [E F D], .bias [E F], .fc2.weight [E D F], .bias [E D]
//
// Every linear layer is y = W x + b, W [out in], where ours has [in out].

#include <map>
#include <span>
#include <string>
#include <vector>

#include "convert/mapped_source.hpp"
#include "convert/model_shapes.hpp"
#include "model/params.hpp"

namespace vitrail {

/// Shapes under the names of our table, as model_of_shapes wants them. Heads that neither the file (q_norm) nor the
/// hints give have 64 channels; that is written into `assumptions`. Error (usage) for fc_norm, and without a number of
/// heads.
std::map<std::string, Shape> shapes_of_timm(std::span<const TensorInfo> tensors, const std::string& file,
                                            const ModelHints& hints, std::vector<std::string>& assumptions);

/// A tensor of the table (to) of timm's (from).
TensorPart timm_part(const ParameterSpec& spec);

}  // namespace vitrail
