#pragma once
// What a step or an evaluation reports. Every sum over images, groups and parameters is made in the global order, on
// every rank alike, so that the numbers are the same bits on every layout.

#include <cstdint>
#include <string>
#include <vector>

#include "base/json.hpp"
#include "model/activations.hpp"
#include "train/state.hpp"

namespace vitrail {

struct MoeMetrics {
  std::int64_t block = 0;
  double importance_loss = 0;  ///< means over groups, not weighted
  double load_loss = 0;
  double gshard_loss = 0;
  double z_loss = 0;
  std::vector<std::int64_t> assigned;  ///< choices per expert
  std::vector<std::int64_t> kept;      ///< of these, not dropped
  std::int64_t tokens = 0;             ///< of the images that count
  std::int64_t processed = 0;          ///< of these, tokens that at least one expert works on

  [[nodiscard]] double drop_rate() const;       ///< share of the choices that were dropped
  [[nodiscard]] double processed_rate() const;  ///< share of the tokens that at least one expert works on
  /// Largest share of an expert over the mean share; 1 = perfectly balanced.
  [[nodiscard]] double load_imbalance() const;
};

struct Metrics {
  std::int64_t images = 0;
  std::int64_t correct = 0;   ///< the predicted class is one of the image's labels
  double main_loss = 0;       ///< mean over images
  double auxiliary_loss = 0;  ///< weighted; sum over blocks, mean over groups
  std::vector<MoeMetrics> moe;

  [[nodiscard]] double total_loss() const { return main_loss + auxiliary_loss; }
  [[nodiscard]] double accuracy() const {
    return images > 0 ? static_cast<double>(correct) / static_cast<double>(images) : 0;
  }
  [[nodiscard]] double drop_rate() const;       ///< over all MoE blocks
  [[nodiscard]] double processed_rate() const;  ///< over all MoE blocks
  [[nodiscard]] double load_imbalance() const;  ///< the largest of all MoE blocks
};

/// Collects the numbers of a rank's passes and, at the end, those of all ranks.
class MetricsCollector {
 public:
  explicit MetricsCollector(const ModelConfig& config) : config_(config) {}

  /// After a forward pass and its loss. The first `valid_images` of the pass count.
  void add_pass(const Activations& acts, std::int64_t valid_images);
  /// Sums over all passes and ranks in the order of the batch: pass-major, then rank. Collective. Empties the
  /// collector.
  Metrics finish(Communicator& world);

 private:
  const ModelConfig& config_;
  std::int64_t valid_groups_ = 0;
  std::int64_t passes_ = 0;
  std::int64_t images_ = 0;
  std::int64_t correct_ = 0;
  std::vector<double> losses_;        // [passes][images of a pass], 0 for images that do not count
  std::vector<double> groups_;        // [passes][MoE blocks][groups of 4 losses]
  std::vector<std::int64_t> counts_;  // [MoE blocks][2 E + 1]: assigned, kept, processed
};

/// Square root of the sum over all parameters of the whole model, from the block sums of every rank's slices, added up
/// in the order of the table, experts and blocks.
class GlobalNorm {
 public:
  explicit GlobalNorm(const TrainState& state);
  /// Collective.
  double operator()(Communicator& world, const std::vector<double>& dense, const std::vector<double>& expert) const;

 private:
  std::int64_t dense_blocks_;        // places for dense blocks in a rank's row
  std::int64_t row_;                 // places in all
  std::vector<std::int64_t> order_;  // places in the gathered rows, in the order of summation
};

}  // namespace vitrail
