#pragma once
// AdamW, SGD and Adafactor with the original's order of events: gradient factors, clipping, the optimizer itself,
// decoupled decay, learning rate, freezing; and a running average of the weights beside them. [V-MoE] The state belongs
// to the owners of the parameters' slices (ZeRO-1, train/flat_layout.hpp).

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "device/arena.hpp"
#include "ops/ops.hpp"
#include "train/factoring.hpp"
#include "train/flat_layout.hpp"

namespace vitrail {

enum class OptimizerKind : std::uint8_t { adamw, sgd, adafactor };

/// A value for the parameters in whose name the regular expression is found.
struct PatternValue {
  std::string pattern;
  double value = 0;
};

struct OptimizerConfig {
  OptimizerKind kind = OptimizerKind::adamw;
  double beta1 = 0.9;                        ///< AdamW
  double beta2 = 0.999;                      ///< AdamW
  double epsilon = 1e-8;                     ///< AdamW: beside the root
  double momentum = 0.9;                     ///< SGD and Adafactor; 0: none
  bool bf16_momentum = false;                ///< momentum, or AdamW's first moment, in bfloat16 (ops/training.hpp)
  std::int64_t factored_above = 32;          ///< Adafactor: see factoring_of
  double decay_exponent = 0.8;               ///< Adafactor: the statistics' decay is 1 - t^-exponent
  double decay_rate_max = 0.999;             ///< Adafactor: but no more than this
  double square_epsilon = 1e-30;             ///< Adafactor: added to squares of gradients
  std::vector<PatternValue> decay;           ///< weight decay: the first pattern found wins, 0 if none
  std::vector<PatternValue> gradient_scale;  ///< factor on the gradient: likewise, 1 if none
  double clip_norm = 0;                      ///< clip by global norm: gradients * clip/norm when norm >= clip; 0 = off
  double clip_absolute = 0;                  ///< clip every element; 0 = off; not both
  std::string frozen;                        ///< pattern of the parameters that keep their values
  std::string trainable;                     ///< pattern of those that do not; not both
  double average_decay = 0;                  ///< average = decay * average + (1 - decay) * parameter; 0: none
};

/// How a layout of these parameters must be cut for the optimizer (FlatLayout's `pieces`). Error (usage) when Adafactor
/// would factor over experts that are on several ranks.
std::vector<std::int64_t> optimizer_pieces(const OptimizerConfig& config, const std::vector<ParameterSpec>& table,
                                           bool all_experts_here);

/// Error (usage) when the pattern of frozen parameters names none of the table, or all.
void expect_some_are_frozen(const OptimizerConfig& config, const std::vector<ParameterSpec>& table);

/// Consecutive elements of a logical tensor of an optimizer's state.
struct StatePiece {
  std::string name;        ///< "adam_m/head/kernel" ...
  Shape shape;             ///< of the whole logical tensor
  std::int64_t first = 0;  ///< index of the first element
  Tensor data;             ///< [count]
};

/// State and settings of one slice of a flat array.
class Optimizer {
 public:
  /// Slice `owner` of `layout`, which is cut at optimizer_pieces. Tensors of the table that are `early` (empty: none)
  /// are left to early_update. Error (usage) for a bad pattern or contradicting settings.
  Optimizer(Arena& arena, Device& device, Dtype real, const OptimizerConfig& config,
            const std::vector<ParameterSpec>& table, const FlatLayout& layout, std::int64_t owner,
            const std::vector<bool>& early = {});

  /// The running average begins as these parameters [slice]. (All other state begins as zero.)
  void start_average(Device& device, ConstTensor parameter);
  /// sums: f64 [slice().blocks]. Sum of the squares of the gradients of each block, before their own factors.
  void square_sums(Ops& ops, ConstTensor gradient, Tensor sums) const;
  /// One update.
  struct Update {
    ConstTensor gradient;  // [slice]
    double learning_rate = 0;
    std::int64_t updates = 1;  ///< counts this one
    ConstTensor clip{};        // f64 [1]: the factor from clipping by norm; left out, 1
    ConstTensor halt{};        // i32 [1]: nothing changes when it is not 0
    Tensor parameter;          // [slice]
  };
  void update(Ops& ops, const Update& update) const;
  /// AdamW of a tensor of the table that this owner has whole, for the verb that makes its gradient; learning_rate and
  /// updates are the caller's to set.
  [[nodiscard]] EarlyUpdate early_update(std::size_t tensor, Tensor parameter) const;

  /// Everything that a checkpoint must hold, of this owner. Names and shapes do not depend on the layout:
  ///   adam_m/NAME, adam_v/NAME, sgd_momentum/NAME, adafactor_momentum/NAME, adafactor_v/NAME, average/NAME  as NAME
  ///   adafactor_over_x/NAME, adafactor_over_y/NAME: without the earlier, the later of the two factored axes
  [[nodiscard]] std::vector<StatePiece> state() const;
  [[nodiscard]] const FlatSlice& slice() const noexcept { return slice_; }

 private:
  /// State with an element for each of the slice's.
  struct Elementwise {
    std::string kind;
    Tensor values;
  };
  Tensor add_state(Arena& arena, Dtype real, const std::string& kind);
  void adamw(Ops& ops, const Update& update) const;
  void sgd(Ops& ops, const Update& update) const;
  void adafactor(Ops& ops, const Update& update) const;

  /// Values from patterns, for every block or unit: [n]
  struct PerTensor {
    Tensor decay, multiplier;  // f64
    Tensor frozen;             // u8
  };
  /// The same of one parameter.
  struct OfTensor {
    double decay, multiplier;
    bool frozen;
  };
  [[nodiscard]] OfTensor of_tensor(std::size_t tensor) const;
  /// Of block or unit i as of tensor tensors[i] of the table.
  PerTensor per_tensor(Arena& arena, Device& device, const std::vector<std::size_t>& tensors) const;
  /// Blocks that follow each other in the slice.
  struct BlockRange {
    std::int64_t first, blocks;
    std::int64_t begin, count;  // their elements
    Tensor block_begin;         // i64 [blocks+1], relative to `begin`
    PerTensor per_block;
    /// The elements of something like the slice.
    template <class AnyTensor>
    [[nodiscard]] AnyTensor of(const AnyTensor& x) const {
      return x.slice(begin, count);
    }
  };
  void lay_out_ranges(Arena& arena, Device& device, const FlatLayout& layout, const std::vector<bool>& early);
  void lay_out_units(Arena& arena, Device& device, const FlatLayout& layout, std::int64_t owner);

  OptimizerConfig config_;
  const std::vector<ParameterSpec>& table_;
  FlatSlice slice_;
  std::vector<FlatRun> runs_;
  std::vector<BlockRange> ranges_;  // all blocks, but for those of early tensors
  std::vector<Elementwise> elementwise_;
  Tensor m_;  // first moment or momentum; none without momentum
  Tensor v_;  // AdamW's second moment, Adafactor's statistics
  Tensor average_;
  std::optional<AdafactorUnits> units_;
  Tensor unit_begin_, factors_, statistics_begin_;  // of the units, as AdafactorStep wants them
  PerTensor of_units_;
};

/// The factor on the gradients of a parameter of this name.
double gradient_multiplier(const OptimizerConfig& config, const std::string& name);

}  // namespace vitrail
