#include "train/factoring.hpp"

#include <algorithm>
#include <numeric>

namespace vitrail {

Factoring factoring_of(const Shape& shape, std::int64_t factored_above) {
  if (shape.axes() < 2) return {};
  std::vector<int> axes(static_cast<std::size_t>(shape.axes()));
  std::iota(axes.begin(), axes.end(), 0);
  std::stable_sort(axes.begin(), axes.end(), [&](int a, int b) { return shape[a] < shape[b]; });
  const int largest = axes.back();
  const int second = axes[axes.size() - 2];
  if (shape[second] < factored_above) return {};
  return {std::min(largest, second), std::max(largest, second)};
}

Shape without_axis(const Shape& shape, int axis) {
  std::vector<std::int64_t> lengths(shape.lengths().begin(), shape.lengths().end());
  lengths.erase(lengths.begin() + axis);
  return Shape(std::span<const std::int64_t>(lengths));
}

std::vector<std::int64_t> adafactor_pieces(const std::vector<ParameterSpec>& table, std::int64_t factored_above,
                                           bool all_experts_here) {
  std::vector<std::int64_t> pieces;
  for (const ParameterSpec& spec : table) {
    const std::int64_t elements = spec.shape.elements();
    if (!spec.expert) {
      pieces.push_back(elements);
      continue;
    }
    const bool over_experts = factoring_of(spec.shape, factored_above).x == 0;
    VITRAIL_EXPECT(
        !over_experts || all_experts_here, ExitCode::usage,
        text("--factored-above ", factored_above, " factors ", spec.name, " ", spec.shape.str(), " over its experts"),
        "they are shared out over ranks, and Adafactor's statistics must not be cut",
        text("--factored-above must be above E, ", spec.shape[0], "; or use --expert-parallel 1"));
    pieces.push_back(over_experts ? elements : elements / spec.shape[0]);
  }
  return pieces;
}

AdafactorUnits::AdafactorUnits(const std::vector<ParameterSpec>& table, std::int64_t factored_above,
                               const std::vector<std::int64_t>& pieces, const FlatLayout& layout, std::int64_t owner) {
  const FlatSlice& slice = layout.slice(owner);
  std::int64_t left = 0;  // of the unit, in later blocks
  for (std::int64_t i = 0; i < slice.blocks; ++i) {
    const FlatBlock& block = layout.blocks()[static_cast<std::size_t>(slice.first_block + i)];
    if (left == 0) {
      left = pieces[block.tensor];
      begin.push_back(block.begin - slice.begin);
      tensor.push_back(block.tensor);
      const ParameterSpec& spec = table[block.tensor];
      add(spec, factoring_of(spec.shape, factored_above), left, block.first);
    }
    left -= block.count;
  }
  VITRAIL_EXPECT(left == 0, ExitCode::other, "a slice ends within a unit of Adafactor",
                 "its layout is not cut at whole tensors", "This is a bug");
}

// A unit is `piece` consecutive elements of its tensor: entries of the leading axes up to all of them.
void AdafactorUnits::add(const ParameterSpec& spec, const Factoring& axes, std::int64_t piece, std::int64_t first) {
  const Shape& shape = spec.shape;
  statistics_begin.push_back(statistics);
  std::vector<Statistic>& mine = entries.emplace_back();
  const auto put = [&](const char* kind, const Shape& of, std::int64_t length) {
    mine.push_back({kind, of, first / length, piece / length, statistics});
    statistics += piece / length;
  };
  if (!axes.factored()) {
    factors.insert(factors.end(), {piece, 0, 0, 0, 0});
    put("v", shape, 1);
    return;
  }
  const auto product = [&](int from, int to) {
    std::int64_t all = 1;
    for (int axis = from; axis < to; ++axis) all *= shape[axis];
    return all;
  };
  const std::int64_t rest = product(axes.x, shape.axes());  // elements of one entry of the axes before x
  factors.insert(factors.end(), {piece / rest, shape[axes.x], product(axes.x + 1, axes.y), shape[axes.y],
                                 product(axes.y + 1, shape.axes())});
  put("over_x", without_axis(shape, axes.x), shape[axes.x]);
  put("over_y", without_axis(shape, axes.y), shape[axes.y]);
}

}  // namespace vitrail
