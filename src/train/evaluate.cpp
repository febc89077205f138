#include "train/evaluate.hpp"

#include <algorithm>
#include <cstring>

namespace vitrail {

Evaluator::Evaluator(const ModelConfig& config, const Layout& layout, Device& device, Ops& ops,
                     std::int64_t labels_per_image)
    : config_(config), layout_(layout), device_(device), ops_(ops) {
  const PassShape shape{.leaves = layout.leaves_per_pass,
                        .leaf_images = layout.leaf_images,
                        .expert_parallel = layout.expert_parallel,
                        .labels = labels_per_image,
                        .backward = false};
  Arena measured("evaluation");
  (void)lay_out_activations(measured, ops.real(), config, shape);
  arena_ = std::make_unique<Arena>("evaluation", device, measured.bytes());
  acts_ = lay_out_activations(*arena_, ops.real(), config, shape);
}

void Evaluator::pass(const VitMoeParams& params, const Ranks& ranks, Loss loss, std::int64_t valid_images) {
  acts_.masked = valid_images < layout_.pass_images() && !config_.moe_blocks.empty();
  if (acts_.masked) {
    // Tokens lie in the order of the images, whatever the groups are.
    const auto valid = static_cast<std::size_t>(valid_images * config_.tokens());
    auto* mask = acts_.valid.as<std::uint8_t>();
    std::memset(mask, 1, valid);
    std::memset(mask + valid, 0, static_cast<std::size_t>(acts_.valid.elements()) - valid);
  }
  ops_.normalize_images({.images = acts_.raw_images, .y = acts_.images});
  ops_.one_hot({.labels = acts_.labels, .targets = acts_.targets});
  vit_moe_forward({ops_, *ranks.expert}, config_, params, Mode::evaluation, acts_);
  vit_moe_loss(ops_, loss, 1, false, acts_);
}

Metrics Evaluator::run(const VitMoeParams& params, const Ranks& ranks, Loss loss, std::int64_t images,
                       const FetchImages& fetch) {
  MetricsCollector collector(config_);
  const std::int64_t per_pass = layout_.ranks * layout_.pass_images();
  for (std::int64_t pass_begin = 0; pass_begin < images; pass_begin += per_pass) {
    const std::int64_t first = pass_begin + layout_.rank * layout_.pass_images();
    const std::int64_t count = std::clamp<std::int64_t>(images - first, 0, layout_.pass_images());
    if (count < layout_.pass_images()) {
      device_.zero(acts_.raw_images);
      std::fill_n(acts_.labels.as<std::int32_t>(), acts_.labels.elements(), -1);
    }
    if (count > 0) fetch(first, count, acts_);
    acts_.random = layout_.randomness(config_, 0, 0, pass_begin / per_pass);  // of random orders and choices
    pass(params, ranks, loss, count);
    collector.add_pass(acts_, count);
  }
  return collector.finish(ranks.world);
}

}  // namespace vitrail
