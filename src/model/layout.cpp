#include "model/layout.hpp"

#include <numeric>

namespace vitrail {

std::int64_t Layout::tree_leaves() const {
  const std::int64_t n = leaves();
  return n & -n;
}

namespace {
bool is_power_of_two(std::int64_t n) { return n > 0 && (n & (n - 1)) == 0; }
}  // namespace

void Layout::check(const ModelConfig& model) const {
  VITRAIL_EXPECT(batch > 0 && leaf_images > 0 && leaves_per_pass > 0 && ranks > 0 && expert_parallel > 0,
                 ExitCode::usage,
                 text("batch ", batch, ", leaf ", leaf_images, ", leaves per pass ", leaves_per_pass,
                      ", expert-parallel width ", expert_parallel),
                 "all of them must be positive", "");
  VITRAIL_EXPECT(batch % leaf_images == 0, ExitCode::usage,
                 text("a batch of ", batch, " images is not divisible into leaves of ", leaf_images),
                 "the batch is a whole number of leaves",
                 text("Use --batch ", (batch / leaf_images + 1) * leaf_images, " or --leaf-images ",
                      std::gcd(batch, leaf_images)));
  if (!model.moe_blocks.empty()) {
    VITRAIL_EXPECT(leaf_images * model.tokens() % model.group_tokens() == 0, ExitCode::usage,
                   text("a leaf of ", leaf_images, " images (", leaf_images * model.tokens(),
                        " tokens) is not a whole number of routing groups of ", model.group_tokens(), " tokens"),
                   "no group may straddle leaves",
                   text("Make --leaf-images a multiple of ", model.router.group_images));
    VITRAIL_EXPECT(model.experts % expert_parallel == 0, ExitCode::usage,
                   text(model.experts, " experts are not divisible by --expert-parallel ", expert_parallel),
                   "every rank holds equally many experts",
                   text("Use --expert-parallel ", std::gcd(model.experts, expert_parallel)));
  }
  VITRAIL_EXPECT(ranks % expert_parallel == 0, ExitCode::usage,
                 text(ranks, " ranks are not divisible by --expert-parallel ", expert_parallel),
                 "the world is EP x R ranks", text("Use --expert-parallel ", std::gcd(ranks, expert_parallel)));
  const std::int64_t per_pass = ranks * leaves_per_pass;
  VITRAIL_EXPECT(
      leaves() % per_pass == 0, ExitCode::usage,
      text(leaves(), " leaves are not divisible over ", ranks, " ranks with ", leaves_per_pass, " leaves per pass"),
      text("a pass takes ", per_pass, " leaves"),
      text("Use a batch of ", (leaves() / per_pass + 1) * per_pass * leaf_images,
           " images, a smaller leaf, or fewer ranks"));
  for (const std::int64_t subtree : {leaves_per_pass, leaves_per_pass * expert_parallel}) {
    VITRAIL_EXPECT(is_power_of_two(subtree) && tree_leaves() % subtree == 0, ExitCode::usage,
                   text("a run of ", subtree, " leaves (", leaves_per_pass, " per pass x expert-parallel width ",
                        subtree / leaves_per_pass, ") is not a subtree of the batch's ", leaves(), " leaves"),
                   text("for equal bits on every layout it must be a power of two that divides ", tree_leaves()),
                   "Change --leaves-per-pass, --expert-parallel, --batch or --leaf-images");
  }
}

}  // namespace vitrail
