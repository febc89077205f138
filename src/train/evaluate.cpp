#include "train/evaluate.hpp"

#include <algorithm>

#include "device/host_values.hpp"

namespace vitrail {

Evaluator::Evaluator(const ModelConfig& config, const Layout& layout, Device& device, Ops& ops,
                     std::int64_t labels_per_image, bool keep_routing)
    : config_(config), layout_(layout), device_(device), ops_(ops) {
  const PassShape shape{.leaves = layout.leaves_per_pass,
                        .leaf_images = layout.leaf_images,
                        .expert_parallel = layout.expert_parallel,
                        .labels = labels_per_image,
                        .backward = false,
                        .keep_routing = keep_routing};
  Arena measured("evaluation");
  (void)lay_out_activations(measured, device, ops, config, shape);
  arena_ = std::make_unique<Arena>("evaluation", device, measured.bytes());
  acts_ = lay_out_activations(*arena_, device, ops, config, shape);
  feed_.emplace(device, acts_);
  report_ = HostTensor(device, Dtype::u8, acts_.report.shape);
}

// Tokens lie in the order of the images, whatever the groups are.
void Evaluator::mask_images_from(std::int64_t valid_images) {
  acts_.masked = valid_images < layout_.pass_images() && !config_.moe_blocks.empty();
  if (!acts_.masked) return;
  std::vector<std::uint8_t> mask(static_cast<std::size_t>(acts_.valid.elements()), 0);
  std::fill_n(mask.begin(), valid_images * config_.tokens(), std::uint8_t{1});
  device_.copy(ConstTensor(mask.data(), acts_.valid.shape, Dtype::u8), acts_.valid);
}

void Evaluator::forward(const VitMoeParams& params, const Ranks& ranks, std::int64_t valid_images) {
  mask_images_from(valid_images);
  ops_.normalize_images({.images = acts_.raw_images, .y = acts_.images});
  vit_moe_forward({ops_, *ranks.expert}, config_, params, Mode::evaluation, acts_);
}

void Evaluator::for_each_pass(const VitMoeParams& params, const Ranks& ranks, std::int64_t images,
                              const FetchImages& fetch, const UsePass& use) {
  const std::int64_t per_pass = images_per_pass();
  for (std::int64_t pass_begin = 0; pass_begin < images; pass_begin += per_pass) {
    const std::int64_t first = pass_begin + layout_.rank * layout_.pass_images();
    const std::int64_t count = std::clamp<std::int64_t>(images - first, 0, layout_.pass_images());
    const PassData host = feed_->next();
    if (count < layout_.pass_images()) {
      std::fill_n(host.raw_images.as<std::uint8_t>(), host.raw_images.elements(), std::uint8_t{0});
      std::fill_n(host.labels.as<std::int32_t>(), host.labels.elements(), -1);
    }
    if (count > 0) fetch(first, count, host.raw_images, host.labels);
    feed_->send(acts_);
    acts_.random = layout_.randomness(config_, 0, 0, pass_begin / per_pass);  // of random orders and choices
    forward(params, ranks, count);
    use(pass_begin, count, host.labels);
    feed_->used();
  }
}

Metrics Evaluator::run(const VitMoeParams& params, const Ranks& ranks, Loss loss, std::int64_t images,
                       const FetchImages& fetch, const AfterPass& after_pass) {
  MetricsCollector collector(config_);
  for_each_pass(params, ranks, images, fetch, [&](std::int64_t pass_begin, std::int64_t count, ConstTensor labels) {
    ops_.one_hot({.labels = acts_.labels, .targets = acts_.targets});
    vit_moe_loss(ops_, loss, 1, false, acts_);
    device_.download(acts_.report, report_.view());
    device_.synchronize();
    collector.add_pass(pass_numbers(acts_, config_, report_.view(), labels), count);
    if (after_pass) after_pass(pass_begin, acts_);
  });
  return collector.finish(ranks.world);
}

FeatureSet Evaluator::features(const VitMoeParams& params, const Ranks& ranks, std::int64_t images,
                               std::int64_t classes, const FetchImages& fetch) {
  FeatureSet set;
  set.width = acts_.pre_logits.shape[1];
  set.classes = classes;
  const HostTensor mine(device_, acts_.pre_logits.dtype, acts_.pre_logits.shape);
  std::vector<std::byte> features(static_cast<std::size_t>(layout_.ranks * acts_.pre_logits.bytes()));
  std::vector<std::int32_t> labels(static_cast<std::size_t>(images_per_pass()));
  const Tensor all_features(features.data(), {images_per_pass(), set.width}, acts_.pre_logits.dtype);
  const Tensor all_labels(labels.data(), {images_per_pass()}, Dtype::i32);
  for_each_pass(params, ranks, images, fetch, [&](std::int64_t pass_begin, std::int64_t, ConstTensor mine_labels) {
    device_.copy(acts_.pre_logits, mine.view());
    ranks.world.all_gather(mine.view(), all_features);
    ranks.world.all_gather(mine_labels, all_labels);
    const std::int64_t real = std::min(images - pass_begin, images_per_pass());  // the others fill up the pass
    for (const double value : to_doubles(all_features.slice(0, real))) {
      set.features.push_back(static_cast<float>(value));
    }
    set.labels.insert(set.labels.end(), labels.begin(), labels.begin() + real);
  });
  return set;
}

}  // namespace vitrail
