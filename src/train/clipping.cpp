#include "train/clipping.hpp"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <tuple>

#include "device/host_values.hpp"
#include "train/state.hpp"

namespace vitrail {

StepRow::StepRow(const TrainState& state)
    : expert_blocks(state.dense_layout.most_blocks()),
      losses(expert_blocks + (state.expert_layout ? state.expert_layout->most_blocks() : 0)),
      places(losses + state.layout.passes()) {}

NormPlan norm_plan(const TrainState& state) {
  const StepRow row(state);
  // (tensor, first element in the logical tensor) orders the blocks of all ranks as the table, experts and blocks do.
  std::vector<std::tuple<std::size_t, std::int64_t, std::int64_t>> places;
  for (std::int64_t rank = 0; rank < state.layout.ranks; ++rank) {
    const FlatSlice& dense = state.dense_layout.slice(rank);
    for (std::int64_t i = 0; i < dense.blocks; ++i) {
      const FlatBlock& block = state.dense_layout.blocks()[static_cast<std::size_t>(dense.first_block + i)];
      places.emplace_back(block.tensor, block.first, rank * row.places + i);
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
      places.emplace_back(block.tensor, first, rank * row.places + row.expert_blocks + i);
    }
  }
  std::sort(places.begin(), places.end());
  const OptimizerConfig optimizer = make_optimizer(state.config);
  NormPlan plan{row.places};
  for (const auto& [tensor, first, place] : places) {
    const double multiplier = gradient_multiplier(optimizer, state.table[tensor].name);
    plan.order.push_back(place);
    plan.weights.push_back(multiplier * multiplier);
  }
  return plan;
}

namespace {
/// What the verb writes, as it lies in memory.
struct Numbers {
  double norm;
  double scale;
  std::int32_t halt;
};
}  // namespace

GlobalClip::GlobalClip(Arena& arena, Device& device, const NormPlan& plan, std::int64_t ranks, double clip_norm)
    : clip_norm_(clip_norm),
      row_(arena.allocate(Dtype::f64, {plan.row})),
      gathered_(ranks == 1 ? row_ : arena.allocate(Dtype::f64, {ranks * plan.row})),
      order_(allocate_with(arena, device, plan.order)),
      weights_(allocate_with(arena, device, plan.weights)),
      result_(arena.allocate(Dtype::u8, {sizeof(Numbers)})) {
  const auto part = [&](std::size_t offset, Dtype dtype) {
    return Tensor(result_.slice(static_cast<std::int64_t>(offset), 0).data, {1}, dtype, result_.device);
  };
  norm_ = part(offsetof(Numbers, norm), Dtype::f64);
  scale_ = part(offsetof(Numbers, scale), Dtype::f64);
  halt_ = part(offsetof(Numbers, halt), Dtype::i32);
}

GlobalClip::Result GlobalClip::read(ConstTensor result) {
  Numbers numbers;
  std::memcpy(&numbers, result.as<std::uint8_t>(), sizeof numbers);
  return {numbers.norm, numbers.scale, numbers.halt != 0};
}

void GlobalClip::run(Ops& ops, Communicator& world) const {
  if (world.size() > 1) world.all_gather(row_, gathered_);
  ops.clip_scale({.sums = gathered_,
                  .order = order_,
                  .weights = weights_,
                  .clip_norm = clip_norm_,
                  .norm = norm_,
                  .scale = scale_,
                  .halt = halt_});
}

void GlobalClip::set_halt(Device& device, bool halt) const {
  const std::int32_t value = halt ? 1 : 0;
  device.copy(ConstTensor(&value, {1}, Dtype::i32), halt_);
}

}  // namespace vitrail
