#include "train/flat_layout.hpp"

#include <algorithm>

namespace vitrail {

FlatLayout::FlatLayout(const std::vector<ParameterSpec>& table, std::int64_t first_expert, std::int64_t experts_here,
                       std::int64_t owners) {
  constexpr std::int64_t kAlignment = 16;  // elements: 64 bytes of f32
  for (std::size_t tensor = 0; tensor < table.size(); ++tensor) {
    const ParameterSpec& spec = table[tensor];
    if (spec.expert != (experts_here > 0)) continue;
    std::vector<std::int64_t> lengths(spec.shape.lengths().begin(), spec.shape.lengths().end());
    if (spec.expert) lengths[0] = experts_here;
    places_.push_back({tensor, elements_, Shape(std::span<const std::int64_t>(lengths))});
    const std::int64_t pieces = spec.expert ? experts_here : 1;
    const std::int64_t each = places_.back().shape.elements() / pieces;
    for (std::int64_t piece = 0; piece < pieces; ++piece) {
      for (std::int64_t done = 0; done < each; done += kBlockElements) {
        const std::int64_t count = std::min(kBlockElements, each - done);
        blocks_.push_back({elements_ + piece * each + done, count, tensor,
                           spec.expert ? (first_expert + piece) * each + done : done});
      }
    }
    elements_ += (pieces * each + kAlignment - 1) / kAlignment * kAlignment;
  }
  // An owner's run of blocks ends where the share of the elements is first reached.
  std::int64_t block = 0;
  const auto total = static_cast<std::int64_t>(blocks_.size());
  for (std::int64_t owner = 0; owner < owners; ++owner) {
    FlatSlice slice{block, 0, block < total ? blocks_[static_cast<std::size_t>(block)].begin : elements_, 0};
    const std::int64_t until = owner + 1 == owners ? elements_ : elements_ / owners * (owner + 1);
    while (block < total && blocks_[static_cast<std::size_t>(block)].begin < until) ++block;
    slice.blocks = block - slice.first_block;
    slice.count = (block < total ? blocks_[static_cast<std::size_t>(block)].begin : elements_) - slice.begin;
    largest_slice_ = std::max(largest_slice_, slice.count);
    most_blocks_ = std::max(most_blocks_, slice.blocks);
    slices_.push_back(slice);
  }
}

void FlatLayout::cut(const std::vector<ParameterSpec>& table, Tensor flat, std::vector<Tensor>& tensors) const {
  tensors.resize(table.size());
  for (const Place& place : places_) {
    tensors[place.tensor] = flat.slice(place.begin, place.shape.elements()).view(place.shape);
  }
}

}  // namespace vitrail
