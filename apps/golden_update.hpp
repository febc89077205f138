#pragma once
// Parameter updates as golden files show them: the optimizer on whole arrays, and what is written down after each step.

#include <optional>
#include <string>
#include <vector>

#include "apps/golden_config.hpp"
#include "apps/golden_run.hpp"
#include "train/clipping.hpp"

namespace vitrail {

/// What one update tells.
struct GoldenUpdateNorms {
  double learning_rate = 0;
  double gradients = 0;   ///< before factors and clipping
  double updates = 0;     ///< of the change of the parameters, those without a gradient left out
  double parameters = 0;  ///< after it
};

/// Is the gradient of this parameter of a model zero in exact arithmetic? The biases of attention keys: softmax does
/// not feel them, unless keys are normalised. Adam and Adafactor divide their round-off by round-off.
bool has_zero_gradient(const std::string& name);

/// The optimizer: its state is that of one rank that owns everything.
class GoldenUpdate {
 public:
  GoldenUpdate(const GoldenBackend& backend, const GoldenOptimizer& golden, const std::vector<ParameterSpec>& table,
               const FlatParameters& parameters);
  GoldenUpdateNorms apply(Ops& ops, const FlatParameters& gradients, const FlatParameters& parameters);

 private:
  const std::vector<ParameterSpec>& table_;
  GoldenOptimizer golden_;
  std::unique_ptr<Arena> arena_;
  std::optional<Optimizer> dense_, expert_;
  std::optional<GlobalClip> clip_;
  std::int64_t updates_ = 0;
};

/// Parameters and norms after every step.
class GoldenTrajectory {
 public:
  GoldenTrajectory(const GoldenFile& file, const std::vector<ParameterSpec>& table)
      : file_(file), table_(table), values_(table.size()) {}

  void add(const GoldenUpdateNorms& norms, const FlatParameters& parameters);
  /// Compares /trajectory, step by step; the scale of a tensor at step t is the larger of its largest entry and the sum
  /// of the learning rates up to t. `spare_zero_gradients`: parameters without a gradient are shown as ZERO-GRADIENT.
  void compare_parameters(double tolerance, bool spare_zero_gradients, GoldenReport& report) const;

  [[nodiscard]] GoldenQuantity learning_rates() const { return of(&GoldenUpdateNorms::learning_rate, false); }
  [[nodiscard]] GoldenQuantity gradient_norms() const { return of(&GoldenUpdateNorms::gradients, true); }
  /// With the file's own changes of the parameters without a gradient, which are not to be judged here either.
  [[nodiscard]] GoldenQuantity update_norms() const;
  [[nodiscard]] GoldenQuantity parameter_norms() const;  ///< likewise with the file's own values of those

 private:
  [[nodiscard]] GoldenQuantity of(double GoldenUpdateNorms::*member, bool norm) const;

  const GoldenFile& file_;
  const std::vector<ParameterSpec>& table_;
  std::vector<GoldenUpdateNorms> norms_;
  std::vector<std::vector<double>> values_;  ///< of each tensor, step after step
};

}  // namespace vitrail
