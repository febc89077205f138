#include "train/metrics.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "device/host_values.hpp"

namespace vitrail {

namespace {
constexpr std::size_t kLosses = 4;  // of a router: importance, load, GShard, z
}

double MoeMetrics::drop_rate() const {
  const auto all = std::accumulate(assigned.begin(), assigned.end(), std::int64_t{0});
  const auto placed = std::accumulate(kept.begin(), kept.end(), std::int64_t{0});
  return all > 0 ? static_cast<double>(all - placed) / static_cast<double>(all) : 0;
}

double MoeMetrics::processed_rate() const {
  return tokens > 0 ? static_cast<double>(processed) / static_cast<double>(tokens) : 0;
}

double MoeMetrics::load_imbalance() const {
  const auto all = std::accumulate(assigned.begin(), assigned.end(), std::int64_t{0});
  if (all == 0) return 1;
  return static_cast<double>(*std::max_element(assigned.begin(), assigned.end())) *
         static_cast<double>(assigned.size()) / static_cast<double>(all);
}

double Metrics::drop_rate() const {
  MoeMetrics sum;
  for (const MoeMetrics& block : moe) {
    sum.assigned.insert(sum.assigned.end(), block.assigned.begin(), block.assigned.end());
    sum.kept.insert(sum.kept.end(), block.kept.begin(), block.kept.end());
  }
  return sum.drop_rate();
}

double Metrics::processed_rate() const {
  MoeMetrics sum;
  for (const MoeMetrics& block : moe) {
    sum.tokens += block.tokens;
    sum.processed += block.processed;
  }
  return sum.processed_rate();
}

double Metrics::load_imbalance() const {
  double largest = 1;
  for (const MoeMetrics& block : moe) largest = std::max(largest, block.load_imbalance());
  return largest;
}

bool PassNumbers::finite() const {
  const auto finite = [](const ConstTensor& values) {
    const std::vector<double> all = to_doubles(values);
    return std::all_of(all.begin(), all.end(), [](double value) { return std::isfinite(value); });
  };
  return finite(loss) && std::all_of(moe.begin(), moe.end(), [&](const Moe& block) {
           return finite(block.importance) && finite(block.load) && finite(block.gshard) && finite(block.z);
         });
}

PassNumbers pass_numbers(const Activations& acts, const ModelConfig& config, ConstTensor report, ConstTensor labels) {
  const auto in_copy = [&](const Tensor& x) {
    const auto offset = static_cast<const std::byte*>(x.data) - static_cast<const std::byte*>(acts.report.data);
    return ConstTensor(static_cast<const std::byte*>(report.data) + offset, x.shape, x.dtype);
  };
  PassNumbers numbers{labels, in_copy(acts.loss), in_copy(acts.predicted), {}};
  for (const std::int64_t block : config.moe_blocks) {
    const MoeActivations& moe = acts.blocks[static_cast<std::size_t>(block)].moe;
    numbers.moe.push_back({in_copy(moe.importance), in_copy(moe.load), in_copy(moe.gshard), in_copy(moe.z),
                           in_copy(moe.assigned), in_copy(moe.kept), in_copy(moe.processed)});
  }
  return numbers;
}

void MetricsCollector::add_pass(const PassNumbers& numbers, std::int64_t valid_images) {
  const std::vector<double> loss = to_doubles(numbers.loss);
  const auto* predicted = numbers.predicted.as<std::int32_t>();
  const auto* labels = numbers.labels.as<std::int32_t>();
  const std::int64_t each = numbers.labels.shape[1];
  for (std::size_t i = 0; i < loss.size(); ++i) {
    const bool counts = static_cast<std::int64_t>(i) < valid_images;
    losses_.push_back(counts ? loss[i] : 0);
    const auto* of_image = labels + static_cast<std::int64_t>(i) * each;
    if (counts && std::find(of_image, of_image + each, predicted[i]) != of_image + each) ++correct_;
  }
  images_ += valid_images;
  ++passes_;
  // Groups of nothing but padding, of which another layout has more or fewer, do not count.
  const std::int64_t valid_groups =
      config_.moe_blocks.empty()
          ? 0
          : (valid_images * config_.tokens() + config_.group_tokens() - 1) / config_.group_tokens();
  valid_groups_ += valid_groups;
  std::size_t count = 0;
  for (const PassNumbers::Moe& moe : numbers.moe) {
    for (const ConstTensor& kind : {moe.importance, moe.load, moe.gshard, moe.z}) {
      std::vector<double> values = to_doubles(kind);
      std::fill(values.begin() + valid_groups, values.end(), 0.0);
      groups_.insert(groups_.end(), values.begin(), values.end());
    }
    for (const ConstTensor& kind : {moe.assigned, moe.kept, moe.processed}) {
      const auto* values = kind.as<std::int64_t>();
      counts_.resize(std::max(counts_.size(), count + static_cast<std::size_t>(kind.elements())));
      for (std::int64_t i = 0; i < kind.elements(); ++i) counts_[count++] += values[i];
    }
  }
}

namespace {

/// Rows of all ranks, [ranks][row].
std::vector<double> gather(Communicator& world, const std::vector<double>& mine) {
  std::vector<double> all(mine.size() * static_cast<std::size_t>(world.size()));
  world.all_gather(ConstTensor(mine.data(), {std::ssize(mine)}, Dtype::f64),
                   Tensor(all.data(), {std::ssize(all)}, Dtype::f64));
  return all;
}

}  // namespace

Metrics MetricsCollector::finish(Communicator& world) {
  const std::size_t blocks = config_.moe_blocks.size();
  const std::size_t passes = static_cast<std::size_t>(passes_);
  const std::size_t per_pass = passes > 0 ? losses_.size() / passes : 0;
  const std::size_t groups = blocks > 0 && passes > 0 ? groups_.size() / passes / blocks / kLosses : 0;
  std::vector<double> row = losses_;
  row.insert(row.end(), groups_.begin(), groups_.end());
  const std::vector<double> all = gather(world, row);
  std::vector<std::int64_t> counts = counts_;
  counts.push_back(valid_groups_);
  counts.push_back(images_);
  counts.push_back(correct_);
  world.all_sum(counts);

  const auto ranks = static_cast<std::size_t>(world.size());
  Metrics metrics;
  metrics.correct = counts.back();
  metrics.images = counts[counts.size() - 2];
  for (std::size_t pass = 0; pass < passes; ++pass) {
    for (std::size_t rank = 0; rank < ranks; ++rank) {
      const double* loss = all.data() + rank * row.size() + pass * per_pass;
      for (std::size_t i = 0; i < per_pass; ++i) metrics.main_loss += loss[i];
    }
  }
  metrics.main_loss /= static_cast<double>(std::max<std::int64_t>(metrics.images, 1));
  for (std::size_t b = 0; b < blocks; ++b) {
    MoeMetrics block;
    block.block = config_.moe_blocks[b];
    double* const sums[] = {&block.importance_loss, &block.load_loss, &block.gshard_loss, &block.z_loss};
    for (std::size_t pass = 0; pass < passes; ++pass) {
      for (std::size_t rank = 0; rank < ranks; ++rank) {
        const double* at = all.data() + rank * row.size() + losses_.size() + (pass * blocks + b) * kLosses * groups;
        for (std::size_t i = 0; i < kLosses * groups; ++i) *sums[i / groups] += at[i];
      }
    }
    for (double* sum : sums) *sum /= static_cast<double>(std::max<std::int64_t>(counts[counts.size() - 3], 1));
    const auto e = static_cast<std::size_t>(config_.experts);
    const auto first = counts.begin() + static_cast<std::ptrdiff_t>(b * (2 * e + 1));
    block.assigned.assign(first, first + static_cast<std::ptrdiff_t>(e));
    block.kept.assign(first + static_cast<std::ptrdiff_t>(e), first + static_cast<std::ptrdiff_t>(2 * e));
    block.tokens = metrics.images * config_.tokens();
    // Soft MoE counts no choices: every slot is a mean of all tokens.
    const bool soft = config_.router.kind == RouterKind::soft;
    block.processed = soft ? block.tokens : first[static_cast<std::ptrdiff_t>(2 * e)];
    const RouterConfig& router = config_.router;
    metrics.auxiliary_loss += router.importance_weight * block.importance_loss + router.load_weight * block.load_loss +
                              router.gshard_weight * block.gshard_loss + router.z_weight * block.z_loss;
    metrics.moe.push_back(std::move(block));
  }
  losses_.clear();
  groups_.clear();
  counts_.clear();
  passes_ = images_ = correct_ = valid_groups_ = 0;
  return metrics;
}

}  // namespace vitrail
