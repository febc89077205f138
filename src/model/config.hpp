#pragma once
// The model, as numbers. The field's letters, defined once, with their constraints:
//
//   B images per leaf           T tokens per image, Tp patches per image     N = B*T tokens per leaf
//   D width                     H heads, Dh = D/H (H divides D)              F hidden width of an MLP or of an expert
//   L blocks                    E experts per MoE block                      K experts per token, 1 <= K <= E
//   G routing groups per leaf   S tokens per group, G*S = N                  C slots per expert and group
//   V classes                   P patch side

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "ops/routing.hpp"

namespace vitrail {

/// How the tokens of the last layer become one vector per image. [V-MoE]
enum class Classifier : std::uint8_t {
  token,  ///< a learned class token is put before the patches and read
  first,  ///< token 0 is read; there is no class token (the original's '0')
  gap,    ///< mean over all tokens
  map     ///< a learned probe asks all tokens by attention, then an MLP
};

enum class PositionEmbedding : std::uint8_t {
  learned,
  sincos2d,  ///< sines and cosines of row and column; no parameters; nothing for the class token
  none
};

enum class RouterKind : std::uint8_t {
  top_k,           ///< every token chooses K experts, with noise
  experts_choice,  ///< every expert chooses C tokens
  soft             ///< Soft MoE: every slot is a mean of all tokens
};

/// How many slots an expert offers to a group. Exactly one of factor and slots is set. [V-MoE]
struct Capacity {
  friend bool operator==(const Capacity&, const Capacity&) = default;
  enum class Rounding : std::uint8_t { ceil, nearest, floor };
  std::optional<double> factor = 1.05;
  std::optional<std::int64_t> slots;
  Rounding rounding = Rounding::ceil;  ///< nearest: half to even
  std::int64_t multiple_of = 4;        ///< the rounded number goes up to a multiple of this; 0 or 1: no
};

/// C for groups of S tokens. Error (usage) when it comes out below 1.
std::int64_t slots_per_expert(const Capacity& capacity, std::int64_t group_tokens, std::int64_t selected,
                              std::int64_t experts);

struct RouterConfig {
  friend bool operator==(const RouterConfig&, const RouterConfig&) = default;

  RouterKind kind = RouterKind::top_k;
  std::int64_t selected = 2;  ///< K; top_k only
  std::int64_t group_images = 8;
  std::int64_t group_tokens = 0;  ///< S; 0: group_images * T
  Capacity capacity;
  double noise_std = 1.0;  ///< the noise on the logits has the standard deviation noise_std / E (soft: noise_std);
                           ///< training only
  TokenOrder order = TokenOrder::vanilla;
  double importance_weight = 0.005;
  double load_weight = 0.005;
  double gshard_weight = 0.0;
  double z_weight = 0.0;
  bool normalize_gates = false;  ///< the kept gates of a token are divided by their sum; not soft
  bool exchange_bf16 = false;    ///< rows to and from the experts, and their gradients, are rounded to bfloat16
  /// Of these MoE blocks the choices are replaced by random ones; evaluation only (ablations of the paper).
  std::vector<std::int64_t> random_blocks;
};

struct ModelConfig {
  friend bool operator==(const ModelConfig&, const ModelConfig&) = default;

  std::int64_t image_height = 224;
  std::int64_t image_width = 224;
  std::int64_t channels = 3;
  std::int64_t patch_rows = 32;
  std::int64_t patch_columns = 32;
  std::int64_t width = 512;         ///< D
  std::int64_t mlp_width = 2048;    ///< F
  std::int64_t heads = 8;           ///< H
  std::int64_t blocks = 8;          ///< L
  std::int64_t classes = 1000;      ///< V
  std::int64_t representation = 0;  ///< width of pre_logits (Dense, then tanh); 0: none
  double head_bias = 0.0;           ///< initial value
  bool head_zero = true;            ///< the head's kernel starts at 0, else as lecun_normal
  Classifier classifier = Classifier::token;
  PositionEmbedding positions = PositionEmbedding::learned;
  double position_temperature = 10000;  ///< of sincos2d
  bool qk_norm = false;                 ///< LayerNorm without bias on the queries and keys of every head
  double dropout = 0;                   ///< after the position embedding, attention's output and in dense MLPs
  double attention_dropout = 0;         ///< of attention probabilities
  double expert_dropout = 0;            ///< in the MLPs of experts
  double stochastic_depth = 0;  ///< rate at the last block; a block's branches are left out per image, linearly rising
  std::vector<std::int64_t> moe_blocks;  ///< indices from 0, ascending
  std::int64_t experts = 8;              ///< E
  bool experts_alike = true;             ///< all experts of a block start equal, as in the original
  RouterConfig router;

  [[nodiscard]] std::int64_t patches() const;       ///< Tp
  [[nodiscard]] std::int64_t tokens() const;        ///< T: the class token, if there is one, is one of them
  [[nodiscard]] std::int64_t features() const;      ///< channels of the head's input: representation, else width
  [[nodiscard]] std::int64_t group_tokens() const;  ///< S
  [[nodiscard]] std::int64_t slots() const;         ///< C
  [[nodiscard]] std::int64_t choices() const;       ///< of a token: K; experts_choice: E; soft (of a slot): 1
  [[nodiscard]] bool is_moe(std::int64_t block) const;
  /// Error (usage) that names the offending number and the rule it breaks.
  void check() const;
};

/// MoE block indices by the paper's names: "none", "every-2", "last-2" ... [V-MoE], last-n being the last n of odd
/// index; or by number (model/moe_blocks.hpp). Error (usage) for another name.
std::vector<std::int64_t> moe_blocks_by_name(const std::string& name, std::int64_t blocks);

/// Floating-point operations of one image's forward pass, two per multiply-add; norms, softmax, GELU and means are left
/// out. Experts work on so many slots per token: top_k K * factor, experts_choice factor, soft and a capacity in slots
/// E * C / S. [V-MoE]
double forward_flops_per_image(const ModelConfig& config);

}  // namespace vitrail
