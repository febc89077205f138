#include "train/gradient_sync.hpp"

#include <algorithm>
#include <bit>

namespace vitrail {

namespace {
constexpr std::int64_t kBucketElements = std::int64_t{1} << 18;  // 1 MiB of f32 for each pair of ranks
}

GradientSync::GradientSync(Arena& arena, Device& device, Dtype real, const FlatLayout& layout, Communicator& owners,
                           std::int64_t units_per_tree, std::int64_t units)
    : device_(device),
      layout_(layout),
      owners_(owners),
      units_per_tree_(units_per_tree),
      trees_(units / units_per_tree),
      single_(units == 1),
      mine_(layout.slice(owners.rank())) {
  VITRAIL_EXPECT(owners.size() == layout.owners() && std::has_single_bit(static_cast<std::uint64_t>(units_per_tree)) &&
                     units % units_per_tree == 0 && units % owners.size() == 0,
                 ExitCode::other,
                 text(units, " units in trees of ", units_per_tree, " over ", owners.size(), " owners"),
                 "they do not fit", "This is a bug: Layout::check should have refused it");
  if (!single_) {
    // No more than log2(units) subtrees wait at a time: the last unit of a tree merges with all of them.
    const auto depth = std::max(1, static_cast<int>(std::bit_width(static_cast<std::uint64_t>(units_per_tree))) - 1);
    for (int level = 0; level < depth; ++level) stack_.push_back(arena.allocate(real, {mine_.count}));
    if (trees_ > 1) total_ = arena.allocate(real, {mine_.count});
    sum_ = trees_ > 1 ? total_ : stack_[0];
  }
  if (owners.size() > 1) {
    const std::int64_t bucket = std::min(kBucketElements, layout.largest_slice());
    send_ = arena.allocate(real, {owners.size(), bucket});
    receive_ = arena.allocate(real, {owners.size(), bucket});
  }
}

std::int64_t GradientSync::bucket_elements(std::int64_t offset) const {
  return std::min(send_.shape[1], layout_.largest_slice() - offset);
}

void GradientSync::add_pass(Ops& ops, ConstTensor gradient, std::int64_t pass) {
  if (single_) {
    sum_ = gradient.slice(mine_.begin, mine_.count);
    return;
  }
  const std::int64_t ranks = owners_.size();
  if (ranks == 1) return push(ops, gradient.slice(mine_.begin, mine_.count), 0, pass);
  for (std::int64_t offset = 0; offset < layout_.largest_slice(); offset += bucket_elements(offset)) {
    const std::int64_t bucket = bucket_elements(offset);
    const Tensor send = send_.view({send_.elements()}).slice(0, ranks * bucket);
    const Tensor receive = receive_.view({receive_.elements()}).slice(0, ranks * bucket);
    for (std::int64_t owner = 0; owner < ranks; ++owner) {
      const FlatSlice& slice = layout_.slice(owner);
      const std::int64_t count = std::clamp<std::int64_t>(slice.count - offset, 0, bucket);
      if (count > 0) device_.copy(gradient.slice(slice.begin + offset, count), send.slice(owner * bucket, count));
    }
    owners_.all_to_all(send, receive);
    const std::int64_t count = std::clamp<std::int64_t>(mine_.count - offset, 0, bucket);
    if (count == 0) continue;
    for (std::int64_t from = 0; from < ranks; ++from) {
      push(ops, receive.slice(from * bucket, count), offset, pass * ranks + from);
    }
  }
}

// Unit i of a tree finds popcount(i) pending subtrees; as many merge with it as i has trailing ones.
void GradientSync::push(Ops& ops, ConstTensor part, std::int64_t offset, std::int64_t unit) {
  const std::int64_t count = part.elements();
  if (count == 0) return;
  const auto in_tree = static_cast<std::uint64_t>(unit % units_per_tree_);
  const auto at = [&](const Tensor& node) { return node.slice(offset, count); };
  auto top = static_cast<std::size_t>(std::popcount(in_tree));
  const int merges = std::countr_one(in_tree);
  if (merges == 0) {
    device_.copy(part, at(stack_[top]));
  } else {
    --top;
    ops.accumulate({.x = part, .y = at(stack_[top])});
  }
  for (int merge = 1; merge < merges; ++merge, --top) {
    ops.accumulate({.x = at(stack_[top]), .y = at(stack_[top - 1])});
  }
  if (trees_ == 1 || unit % units_per_tree_ != units_per_tree_ - 1) return;
  if (unit < units_per_tree_) {
    device_.copy(at(stack_[0]), at(total_));
  } else {
    ops.accumulate({.x = at(stack_[0]), .y = at(total_)});
  }
}

void GradientSync::publish(Tensor parameters) {
  const std::int64_t ranks = owners_.size();
  if (ranks == 1) return;
  for (std::int64_t offset = 0; offset < layout_.largest_slice(); offset += bucket_elements(offset)) {
    const std::int64_t bucket = bucket_elements(offset);
    const Tensor send = send_.view({send_.elements()}).slice(0, bucket);
    const Tensor receive = receive_.view({receive_.elements()}).slice(0, ranks * bucket);
    const auto part_of = [&](std::int64_t owner) {
      return std::clamp<std::int64_t>(layout_.slice(owner).count - offset, 0, bucket);
    };
    const std::int64_t count = part_of(owners_.rank());
    if (count > 0) device_.copy(parameters.slice(mine_.begin + offset, count), send.slice(0, count));
    owners_.all_gather(send, receive);
    for (std::int64_t owner = 0; owner < ranks; ++owner) {
      const std::int64_t theirs = owner == owners_.rank() ? 0 : part_of(owner);
      if (theirs == 0) continue;
      device_.copy(receive.slice(owner * bucket, theirs),
                   parameters.slice(layout_.slice(owner).begin + offset, theirs));
    }
  }
}

}  // namespace vitrail
