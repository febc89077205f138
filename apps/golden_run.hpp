#pragma once
// A model in memory of its own, for golden files: parameters, gradients and one pass of training or evaluation. The
// whole pass is one leaf.

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "apps/golden.hpp"
#include "apps/golden_config.hpp"
#include "apps/golden_file.hpp"
#include "comm/communicator.hpp"
#include "device/arena.hpp"
#include "model/vit_moe.hpp"
#include "train/flat_layout.hpp"
#include "train/product_weights.hpp"

namespace vitrail {

/// The tensors of a table, dense ones and experts each in a flat array.
class FlatParameters {
 public:
  FlatParameters(Device& device, Dtype real, const std::vector<ParameterSpec>& table);

  [[nodiscard]] Device& device() const noexcept { return device_; }
  [[nodiscard]] const FlatLayout& dense_layout() const noexcept { return dense_layout_; }
  [[nodiscard]] const FlatLayout& expert_layout() const noexcept { return expert_layout_; }
  [[nodiscard]] Tensor dense() const noexcept { return dense_; }
  [[nodiscard]] Tensor expert() const noexcept { return expert_; }
  /// In the order of the table, with its shapes.
  [[nodiscard]] const std::vector<Tensor>& tensors() const noexcept { return tensors_; }
  /// The square root of the sum of all squares, added up block by block in the order of the table.
  [[nodiscard]] double norm(Ops& ops) const;

 private:
  Device& device_;
  FlatLayout dense_layout_, expert_layout_;
  std::unique_ptr<Arena> arena_;
  Tensor dense_, expert_;
  std::vector<Tensor> tensors_;
};

/// `parameters` of a table out of `group`. Error (data) when one is missing or has another shape; Unsupported when the
/// group holds a tensor that the table does not know.
void read_parameters(const GoldenFile& file, const std::string& group, const std::vector<ParameterSpec>& table,
                     const FlatParameters& parameters);

/// The activations of a pass and what runs it.
class GoldenPass {
 public:
  /// Of a model with these parameters, which must outlive it, as the table.
  GoldenPass(const GoldenBackend& backend, const ModelConfig& config, std::int64_t images,
             const std::vector<ParameterSpec>& table, const FlatParameters& parameters);

  [[nodiscard]] Activations& acts() noexcept { return acts_; }
  [[nodiscard]] const ModelConfig& config() const noexcept { return config_; }
  [[nodiscard]] Device& device() const noexcept { return device_; }
  /// Does its training pass draw noise?
  [[nodiscard]] bool noisy() const noexcept { return config_.router.noise_std > 0; }

  /// acts().images, targets and noise -> everything that a forward pass gives, and the loss per image.
  void forward(Mode mode, Loss loss, double image_scale);
  /// Then: the gradients of image_scale * sum of losses + group_scale * sum of auxiliary losses.
  void backward(double group_scale, const FlatParameters& gradients);

  /// The values of one of its tensors.
  [[nodiscard]] std::vector<double> values(ConstTensor tensor) const;
  [[nodiscard]] double mean_loss() const;
  /// Weighted auxiliary loss of every group of a block.
  [[nodiscard]] std::vector<double> auxiliary_loss(std::int64_t block, Mode mode) const;
  /// Mean over groups of the sum over blocks.
  [[nodiscard]] double auxiliary_loss(Mode mode) const;

 private:
  Ops& ops_;
  Device& device_;
  ModelConfig config_;
  const std::vector<ParameterSpec>& table_;
  std::unique_ptr<Communicator> self_;
  std::unique_ptr<Arena> arena_;
  Activations acts_;
  std::optional<ProductWeights> weights_;
};

/// "encoderblock_3".
std::string block_name(std::int64_t block);

double mean_of(const std::vector<double>& values);

}  // namespace vitrail
