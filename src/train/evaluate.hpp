#pragma once
// Evaluation over a data set in its own order, on all ranks.

#include <functional>

#include "train/metrics.hpp"

namespace vitrail {

/// Puts images first .. first + count - 1 of the set into the front of acts.raw_images and acts.labels.
using FetchImages = std::function<void(std::int64_t first, std::int64_t count, Activations& acts)>;

class Evaluator {
 public:
  /// Lays out memory for passes of leaves_per_pass leaves of leaf_images images per rank. `config` may differ from the
  /// training's in everything that is no parameter: K, capacity, token order, group size. Images of the data have at
  /// most `labels_per_image` labels.
  Evaluator(const ModelConfig& config, const Layout& layout, Device& device, Ops& ops,
            std::int64_t labels_per_image = 1);

  /// The last pass is filled up with images that are masked out of routing and metrics. Collective.
  Metrics run(const VitMoeParams& params, const Ranks& ranks, Loss loss, std::int64_t images, const FetchImages& fetch);

 private:
  void pass(const VitMoeParams& params, const Ranks& ranks, Loss loss, std::int64_t valid_images);

  ModelConfig config_;
  Layout layout_;
  Device& device_;
  Ops& ops_;
  std::unique_ptr<Arena> arena_;
  Activations acts_;
};

}  // namespace vitrail
