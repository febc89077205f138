#pragma once
// Evaluation over a data set in its own order, on all ranks.

#include <functional>

#include "train/fewshot.hpp"
#include "train/metrics.hpp"

namespace vitrail {

/// Puts images first .. first + count - 1 of the set into the front of acts.raw_images and acts.labels.
using FetchImages = std::function<void(std::int64_t first, std::int64_t count, Activations& acts)>;

class Evaluator {
 public:
  /// Lays out memory for passes of leaves_per_pass leaves of leaf_images images per rank. `config` may differ from the
  /// training's in everything that is no parameter: K, capacity, token order, group size.
  Evaluator(const ModelConfig& config, const Layout& layout, Device& device, Ops& ops);

  /// The last pass is filled up with images that are masked out of routing and metrics. Collective.
  Metrics run(const VitMoeParams& params, const Ranks& ranks, Loss loss, std::int64_t images, const FetchImages& fetch);
  /// What the head reads, rounded to f32, and the labels, of a set with `classes` classes of its own: all images in
  /// their order, on every rank. Collective.
  FeatureSet features(const VitMoeParams& params, const Ranks& ranks, std::int64_t images, std::int64_t classes,
                      const FetchImages& fetch);

 private:
  void forward(const VitMoeParams& params, const Ranks& ranks, std::int64_t valid_images);
  /// All images through the model; `use` is called after each pass, with its first image and the number of this rank's.
  void for_each_pass(const VitMoeParams& params, const Ranks& ranks, std::int64_t images, const FetchImages& fetch,
                     const std::function<void(std::int64_t pass_begin, std::int64_t count)>& use);
  [[nodiscard]] std::int64_t images_per_pass() const { return layout_.ranks * layout_.pass_images(); }

  ModelConfig config_;
  Layout layout_;
  Device& device_;
  Ops& ops_;
  std::unique_ptr<Arena> arena_;
  Activations acts_;
};

}  // namespace vitrail
