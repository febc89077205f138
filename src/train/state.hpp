#pragma once
// Everything that a rank holds of a training run, laid out once before step 1.

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "comm/communicator.hpp"
#include "device/arena.hpp"
#include "model/activations.hpp"
#include "model/layout.hpp"
#include "model/params.hpp"
#include "ops/ops.hpp"
#include "train/flat_layout.hpp"
#include "train/gradient_sync.hpp"
#include "train/optimizer.hpp"
#include "train/product_weights.hpp"
#include "train/run_config.hpp"

namespace vitrail {

/// The ranks as the parallel layout sees them.
struct Ranks {
  Ranks(Communicator& world, const Layout& layout);  // collective

  Communicator& world;
  std::unique_ptr<Communicator> expert;   ///< the EP ranks that share one copy of all experts
  std::unique_ptr<Communicator> replica;  ///< the R ranks that hold the same experts
};

/// The dense parameters, or the experts of this rank: values, gradients, optimizer state and how they travel.
struct ParameterShare {
  ParameterShare(Arena& parameters, Arena& gradients, Arena& optimizer, Device& device, Dtype real,
                 const OptimizerConfig& config, const std::vector<ParameterSpec>& table, const FlatLayout& layout,
                 Communicator& owners, std::int64_t units_per_tree, std::int64_t units, const std::vector<bool>& early);

  const FlatLayout& layout;
  Tensor values;        // [layout.elements()]
  Tensor gradients;     // [layout.elements()]
  Optimizer optimizer;  // of this owner's slice
  GradientSync sync;

  /// This owner's slice of the values.
  [[nodiscard]] Tensor mine() const { return values.slice(optimizer.slice().begin, optimizer.slice().count); }
};

class TrainState {
 public:
  /// Allocates everything and gives the parameters their initial values. Images of the data have at most
  /// `labels_per_image` labels. Collective. `world` must outlive the state.
  TrainState(const RunConfig& config, Device& device, Ops& ops, Communicator& world, std::int64_t labels_per_image = 1);

  const RunConfig config;
  const Layout layout;
  const std::int64_t labels_per_image;
  Device& device;
  Ops& ops;
  Ranks ranks;
  const std::vector<ParameterSpec> table;
  const std::vector<std::int64_t> pieces;  ///< what the optimizer wants one owner to have together
  const FlatLayout dense_layout;
  const std::optional<FlatLayout> expert_layout;  ///< none in a dense model

  /// The parameters have been given other initial values: running averages begin as them. The constructor has done so
  /// for the values that it gave.
  void start_averages();

  /// Bytes by class, for reports.
  [[nodiscard]] std::int64_t parameter_bytes() const { return parameter_arena_->bytes(); }
  [[nodiscard]] std::int64_t gradient_bytes() const { return gradient_arena_->bytes() - untouched_gradient_bytes_; }
  [[nodiscard]] std::int64_t optimizer_bytes() const { return optimizer_arena_->bytes(); }
  [[nodiscard]] std::int64_t activation_bytes() const { return activation_arena_->bytes(); }

 private:
  std::unique_ptr<Arena> parameter_arena_, gradient_arena_, optimizer_arena_, activation_arena_;
  std::int64_t untouched_gradient_bytes_ = 0;  // of what is updated early: addresses without memory

 public:
  std::optional<ParameterShare> dense;
  std::optional<ParameterShare> expert;
  std::vector<Tensor> parameters;         ///< by the table; expert tensors hold this rank's experts
  std::optional<ProductWeights> weights;  ///< to be refreshed when the parameters have changed
  VitMoeParams params;                    ///< these as the layers see them
  VitMoeParams gradients;
  std::vector<EarlyUpdate> early_updates;  ///< of weights whose gradients nobody else must know; few or none
  Activations acts;
  std::int64_t step = 0;  ///< optimisation steps done

 private:
  [[nodiscard]] std::vector<bool> updated_early() const;
  void bind_early_updates(const std::vector<bool>& early);
  void lay_out(Arena& parameters, Arena& gradients, Arena& optimizer, Arena& activations);
  void initialize_parameters();
};

}  // namespace vitrail
