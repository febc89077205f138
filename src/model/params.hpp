#pragma once
// The one table of parameters. Initialisation, weight decay, gradient synchronisation, optimizer, checkpoint and
// summary all walk it. Names and shapes are those of the original implementation. [V-MoE]

#include <cstdint>
#include <string>
#include <vector>

#include "model/config.hpp"
#include "ops/ops.hpp"

namespace vitrail {

enum class Initializer : std::uint8_t {
  constant,        ///< `value` everywhere
  normal,          ///< N(0, value^2)
  lecun_normal,    ///< N(0,1) truncated to [-2, 2], times sqrt(1/fan_in) / 0.87962566103423978
  xavier_uniform,  ///< U(-a, a), a = sqrt(6 / (fan_in + fan_out))
};

struct ParameterSpec {
  std::string name;     ///< e.g. "Encoder/encoderblock_1/Moe/Mlp/Dense_0/kernel"
  Shape shape;          ///< whole and logical; an expert tensor has a leading axis E
  bool expert = false;  ///< its leading axis is shared out over the expert-parallel ranks
  Initializer initializer = Initializer::constant;
  double value = 0;
  std::int64_t fan_in = 1;
  std::int64_t fan_out = 1;
  bool mlp = false;      ///< a weight of the MLP of a block, or of its experts
  bool product = false;  ///< a factor of matrix products, which take it in Ops::stored; a router's are exact, so not it
};

/// All tensors of a model, in the order of the forward pass.
std::vector<ParameterSpec> parameter_table(const ModelConfig& config);

/// Number of parameters of the whole model.
std::int64_t parameter_count(const std::vector<ParameterSpec>& table);

// --- the parameters as the layers see them ---------------------------------------------------------------------------
// Views with the shapes that the verbs want. The same structs serve for gradients.

struct LayernormParams {
  Tensor scale;  // [D]
  Tensor bias;   // [D]; none in those of queries and keys, whose scale is [Dh]
};
struct LinearParams {
  Tensor w;                             // [E in out], E = 1 in dense layers
  Tensor b;                             // [E out]; none in the router
  const EarlyUpdate* update = nullptr;  // of gradients: instead of w, which is none then
};
struct AttentionParams {
  Tensor wq, wk, wv;                     // [D A], A = H * Dh
  Tensor bq, bk, bv;                     // [A]
  LinearParams out;                      // [1 A D]
  LayernormParams query_norm, key_norm;  // none without qk_norm
};
struct BlockParams {
  LayernormParams norm0;  // before attention
  AttentionParams attention;
  LayernormParams norm1;  // before the MLP or the MoE
  Tensor router;          // [1 D E]; none in a dense block and with Soft MoE
  Tensor slots;           // mu of Soft MoE [D E*C], else none
  Tensor slots_scale;     // its scale [1]
  LinearParams mlp0;      // [1 D F], or this rank's experts [E/EP D F]
  LinearParams mlp1;      // [1 F D], or [E/EP F D]
};
struct MapHeadParams {
  Tensor probe;  // [D]
  AttentionParams attention;
  LayernormParams norm;
  LinearParams mlp0;  // [1 D F]
  LinearParams mlp1;  // [1 F D]
};
struct VitMoeParams {
  LinearParams embedding;  // [1 patch D]
  Tensor class_token;      // [D]; none but for Classifier::token
  Tensor positions;        // [T D]; none unless they are learned
  std::vector<BlockParams> blocks;
  LayernormParams encoder_norm;
  MapHeadParams map;        // none but for Classifier::map
  LinearParams pre_logits;  // [1 D rep]; none without a representation
  LinearParams head;        // [1 D or rep, V]
};

/// Binds the tensors of a table (in its order; expert tensors hold this rank's experts only) to the layers.
VitMoeParams bind_params(const ModelConfig& config, const std::vector<ParameterSpec>& table,
                         const std::vector<Tensor>& tensors);

/// Weights of MLPs are updated where their gradients are made: by the table, nullptr for the others.
void bind_updates(const ModelConfig& config, const std::vector<ParameterSpec>& table,
                  const std::vector<const EarlyUpdate*>& updates, VitMoeParams& gradients);

/// Fills one tensor of the table with its initial values: a pure function of (seed, number in the table, index), so
/// that every layout starts from the same bits. `first_expert` is the expert of the first entry of an expert tensor.
/// When `experts_alike`, all experts of a tensor get the values of expert 0.
void initialize(Ops& ops, const ParameterSpec& spec, std::uint64_t seed, std::uint32_t number, bool experts_alike,
                std::int64_t first_expert, Tensor tensor);

}  // namespace vitrail
