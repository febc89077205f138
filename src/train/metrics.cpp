#include "train/metrics.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <tuple>

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

void MetricsCollector::add_pass(const Activations& acts, std::int64_t valid_images) {
  const std::vector<double> loss = to_doubles(acts.loss);
  const auto* predicted = acts.predicted.as<std::int32_t>();
  const auto* labels = acts.labels.as<std::int32_t>();  // [I each]
  const std::int64_t each = acts.shape.labels;
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
  for (const std::int64_t block : config_.moe_blocks) {
    const MoeActivations& moe = acts.blocks[static_cast<std::size_t>(block)].moe;
    for (const Tensor& kind : {moe.importance, moe.load, moe.gshard, moe.z}) {
      std::vector<double> values = to_doubles(kind);
      std::fill(values.begin() + valid_groups, values.end(), 0.0);
      groups_.insert(groups_.end(), values.begin(), values.end());
    }
    for (const Tensor& kind : {moe.assigned, moe.kept, moe.processed}) {
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

GlobalNorm::GlobalNorm(const TrainState& state)
    : dense_blocks_(state.dense_layout.most_blocks()),
      row_(dense_blocks_ + (state.expert_layout ? state.expert_layout->most_blocks() : 0)) {
  // (tensor, first element in the logical tensor) orders the blocks of all ranks as the table, experts and blocks do.
  std::vector<std::tuple<std::size_t, std::int64_t, std::int64_t>> places;
  for (std::int64_t rank = 0; rank < state.layout.ranks; ++rank) {
    const FlatSlice& dense = state.dense_layout.slice(rank);
    for (std::int64_t i = 0; i < dense.blocks; ++i) {
      const FlatBlock& block = state.dense_layout.blocks()[static_cast<std::size_t>(dense.first_block + i)];
      places.emplace_back(block.tensor, block.first, rank * row_ + i);
    }
    if (!state.expert_layout) continue;
    // Every rank's experts are laid out like mine; only the numbers of the experts differ.
    Layout theirs = state.layout;
    theirs.rank = rank;
    const FlatSlice& expert = state.expert_layout->slice(theirs.replica());
    const std::int64_t here = state.layout.experts_here(state.config.model);
    for (std::int64_t i = 0; i < expert.blocks; ++i) {
      const FlatBlock& block = state.expert_layout->blocks()[static_cast<std::size_t>(expert.first_block + i)];
      const std::int64_t each = state.table[block.tensor].shape.elements() / state.config.model.experts;
      const std::int64_t first = block.first + (theirs.expert_rank() - state.layout.expert_rank()) * here * each;
      places.emplace_back(block.tensor, first, rank * row_ + dense_blocks_ + i);
    }
  }
  std::sort(places.begin(), places.end());
  for (const auto& place : places) order_.push_back(std::get<2>(place));
}

double GlobalNorm::operator()(Communicator& world, const std::vector<double>& dense,
                              const std::vector<double>& expert) const {
  std::vector<double> row(static_cast<std::size_t>(row_), 0.0);
  std::copy(dense.begin(), dense.end(), row.begin());
  std::copy(expert.begin(), expert.end(), row.begin() + dense_blocks_);
  const std::vector<double> all = gather(world, row);
  double sum = 0;
  for (const std::int64_t place : order_) sum += all[static_cast<std::size_t>(place)];
  return std::sqrt(sum);
}

}  // namespace vitrail
