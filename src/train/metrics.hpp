#pragma once
// What a step or an evaluation reports. Every sum over images, groups and parameters is made in the global order, on
// every rank alike, so that the numbers are the same bits on every layout.

#include <cstdint>
#include <string>
#include <vector>

#include "base/json.hpp"
#include "comm/communicator.hpp"
#include "model/activations.hpp"

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

/// What metrics read of a pass, in host memory.
struct PassNumbers {
  /// Of an MoE block.
  struct Moe {
    ConstTensor importance, load, gshard, z;  // [groups]
    ConstTensor assigned, kept;               // i64 [E]
    ConstTensor processed;                    // i64 [1]
  };
  ConstTensor labels;     // i32 [I labels]
  ConstTensor loss;       // [I]
  ConstTensor predicted;  // i32 [I]
  std::vector<Moe> moe;

  /// Whether all losses are.
  [[nodiscard]] bool finite() const;
};

/// `report`: a copy of acts.report in host memory, to which the numbers point.
PassNumbers pass_numbers(const Activations& acts, const ModelConfig& config, ConstTensor report, ConstTensor labels);

/// Collects the numbers of a rank's passes and, at the end, those of all ranks.
class MetricsCollector {
 public:
  explicit MetricsCollector(const ModelConfig& config) : config_(config) {}

  /// Of a forward pass and its loss. The first `valid_images` of the pass count.
  void add_pass(const PassNumbers& numbers, std::int64_t valid_images);
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

}  // namespace vitrail
