#include "train/flat_layout.hpp"

#include <algorithm>

namespace vitrail {

FlatLayout::FlatLayout(const std::vector<ParameterSpec>& table, std::int64_t first_expert, std::int64_t experts_here,
                       std::int64_t owners, const std::vector<std::int64_t>& pieces) {
  constexpr std::int64_t kAlignment = 16;  // elements: 64 bytes of f32
  for (std::size_t tensor = 0; tensor < table.size(); ++tensor) {
    const ParameterSpec& spec = table[tensor];
    if (spec.expert != (experts_here > 0)) continue;
    std::vector<std::int64_t> lengths(spec.shape.lengths().begin(), spec.shape.lengths().end());
    if (spec.expert) lengths[0] = experts_here;
    places_.push_back({tensor, elements_, Shape(std::span<const std::int64_t>(lengths))});
    const std::int64_t experts = spec.expert ? experts_here : 1;
    const std::int64_t each = places_.back().shape.elements() / experts;
    for (std::int64_t expert = 0; expert < experts; ++expert) {
      for (std::int64_t done = 0; done < each; done += kBlockElements) {
        const std::int64_t count = std::min(kBlockElements, each - done);
        blocks_.push_back({elements_ + expert * each + done, count, tensor,
                           spec.expert ? (first_expert + expert) * each + done : done});
      }
    }
    elements_ += (experts * each + kAlignment - 1) / kAlignment * kAlignment;
  }
  share_out(owners, pieces);
}

// An owner's run of blocks ends where the share of the elements is first reached and a piece begins.
void FlatLayout::share_out(std::int64_t owners, const std::vector<std::int64_t>& pieces) {
  const auto total = static_cast<std::int64_t>(blocks_.size());
  const auto begin_of = [&](std::int64_t block) {
    return block < total ? blocks_[static_cast<std::size_t>(block)].begin : elements_;
  };
  const auto begins_a_piece = [&](std::int64_t number) {
    const FlatBlock& block = blocks_[static_cast<std::size_t>(number)];
    return pieces.empty() || block.first % pieces[block.tensor] == 0;
  };
  std::int64_t block = 0;
  for (std::int64_t owner = 0; owner < owners; ++owner) {
    FlatSlice slice{block, 0, begin_of(block), 0};
    const std::int64_t until = owner + 1 == owners ? elements_ : elements_ / owners * (owner + 1);
    while (block < total && (begin_of(block) < until || !begins_a_piece(block))) ++block;
    slice.blocks = block - slice.first_block;
    slice.count = begin_of(block) - slice.begin;
    largest_slice_ = std::max(largest_slice_, slice.count);
    most_blocks_ = std::max(most_blocks_, slice.blocks);
    slices_.push_back(slice);
  }
}

std::vector<FlatRun> FlatLayout::runs(std::int64_t owner) const {
  const FlatSlice& mine = slice(owner);
  std::vector<FlatRun> runs;
  for (std::int64_t i = 0; i < mine.blocks; ++i) {
    const FlatBlock& block = blocks_[static_cast<std::size_t>(mine.first_block + i)];
    const std::int64_t in_slice = block.begin - mine.begin;
    if (!runs.empty() && runs.back().tensor == block.tensor && runs.back().first + runs.back().count == block.first &&
        runs.back().in_slice + runs.back().count == in_slice) {
      runs.back().count += block.count;
    } else {
      runs.push_back({block.tensor, block.first, in_slice, block.count});
    }
  }
  return runs;
}

void FlatLayout::cut(const std::vector<ParameterSpec>& table, Tensor flat, std::vector<Tensor>& tensors) const {
  tensors.resize(table.size());
  for (const Place& place : places_) {
    tensors[place.tensor] = flat.slice(place.begin, place.shape.elements()).view(place.shape);
  }
}

}  // namespace vitrail
