#pragma once
// Evaluation over a data set in its own order, on all ranks.

#include <functional>
#include <memory>
#include <optional>

#include "train/fewshot.hpp"
#include "train/metrics.hpp"
#include "train/pass_feed.hpp"
#include "train/state.hpp"

namespace vitrail {

/// Puts images first .. first + count - 1 of the set into the front of these tensors in host memory: u8 [I h w c] and
/// i32 [I labels].
using FetchImages = std::function<void(std::int64_t first, std::int64_t count, Tensor raw_images, Tensor labels)>;

/// Is shown a pass when it is done, on every rank, also on those whose images are all padding. `pass_begin` is the
/// first image of the pass; rank r holds those from pass_begin + r * pass_images() on.
using AfterPass = std::function<void(std::int64_t pass_begin, const Activations& acts)>;

class Evaluator {
 public:
  /// Lays out memory for passes of leaves_per_pass leaves of leaf_images images per rank. `config` may differ from the
  /// training's in everything that is no parameter: K, capacity, token order, group size. Images of the data have at
  /// most `labels_per_image` labels. With `keep_routing` all MoE blocks still have their gates, choices and slots after
  /// a pass; otherwise only the last has.
  Evaluator(const ModelConfig& config, const Layout& layout, Device& device, Ops& ops,
            std::int64_t labels_per_image = 1, bool keep_routing = false);

  /// The last pass is filled up with images that are masked out of routing and metrics. Collective.
  Metrics run(const VitMoeParams& params, const Ranks& ranks, Loss loss, std::int64_t images, const FetchImages& fetch,
              const AfterPass& after_pass = {});
  /// What the head reads, rounded to f32, and the labels, of a set with `classes` classes of its own: all images in
  /// their order, on every rank. Collective.
  FeatureSet features(const VitMoeParams& params, const Ranks& ranks, std::int64_t images, std::int64_t classes,
                      const FetchImages& fetch);

 private:
  void forward(const VitMoeParams& params, const Ranks& ranks, std::int64_t valid_images);
  /// All images through the model; `use` is called after each pass, with its first image, the number of this rank's and
  /// their labels in host memory.
  using UsePass = std::function<void(std::int64_t pass_begin, std::int64_t count, ConstTensor labels)>;
  void mask_images_from(std::int64_t valid_images);
  void for_each_pass(const VitMoeParams& params, const Ranks& ranks, std::int64_t images, const FetchImages& fetch,
                     const UsePass& use);
  [[nodiscard]] std::int64_t images_per_pass() const { return layout_.ranks * layout_.pass_images(); }

  ModelConfig config_;
  Layout layout_;
  Device& device_;
  Ops& ops_;
  std::unique_ptr<Arena> arena_;
  Activations acts_;
  std::optional<PassFeed> feed_;
  HostTensor report_;  // of acts_.report
};

}  // namespace vitrail
