#pragma once
// AdamW with the original's order of events: gradient factors, clipping, Adam, decoupled decay, learning rate,
// freezing. [V-MoE] The state belongs to the owners of the parameters' slices (ZeRO-1, train/flat_layout.hpp).

#include <cstdint>
#include <string>
#include <vector>

#include "device/arena.hpp"
#include "ops/ops.hpp"
#include "train/flat_layout.hpp"

namespace vitrail {

/// A value for the parameters in whose name the regular expression is found.
struct PatternValue {
  std::string pattern;
  double value = 0;
};

struct OptimizerConfig {
  double beta1 = 0.9;
  double beta2 = 0.999;
  double epsilon = 1e-8;
  bool bf16_moment = false;                  ///< the first moment is rounded to bfloat16 (ops/training.hpp)
  std::vector<PatternValue> decay;           ///< weight decay: the first pattern found wins, 0 if none
  std::vector<PatternValue> gradient_scale;  ///< factor on the gradient: likewise, 1 if none
  double clip_norm = 0;                      ///< clip by global norm: gradients * clip/norm when norm >= clip; 0 = off
  double clip_absolute = 0;                  ///< clip every element; 0 = off; not both
  std::string frozen;                        ///< pattern of the parameters that keep their values
  std::string trainable;                     ///< pattern of those that do not; not both
};

/// State and settings of one slice of a flat array.
class AdamW {
 public:
  /// Slice `owner` of `layout`. Error (usage) for a bad pattern or contradicting settings.
  AdamW(Arena& arena, Dtype real, const OptimizerConfig& config, const std::vector<ParameterSpec>& table,
        const FlatLayout& layout, std::int64_t owner);

  /// Sum of the squares of the (scaled) gradients of each block of the slice, f64, in block order.
  [[nodiscard]] std::vector<double> square_sums(Ops& ops, ConstTensor gradient);
  /// One update. `gradient`, `parameter` [slice]; `clip` = factor from global-norm clipping; `updates` counts this one.
  void update(Ops& ops, ConstTensor gradient, double clip, double learning_rate, std::int64_t updates,
              Tensor parameter);

  [[nodiscard]] Tensor m() const noexcept { return m_; }
  [[nodiscard]] Tensor v() const noexcept { return v_; }
  [[nodiscard]] const FlatSlice& slice() const noexcept { return slice_; }

 private:
  OptimizerConfig config_;
  FlatSlice slice_;
  Tensor m_, v_;
  std::vector<std::int64_t> block_begin_;  // relative to the slice
  std::vector<double> decay_, multiplier_;
  std::vector<std::uint8_t> frozen_;
  std::vector<double> sums_;
};

/// The factor for all gradients: clip / norm when clipping by norm is on and norm >= clip, else 1.
double clip_factor(const OptimizerConfig& config, double norm);

}  // namespace vitrail
