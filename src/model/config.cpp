#include "model/config.hpp"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <numeric>

#include "model/moe_blocks.hpp"

namespace vitrail {

std::int64_t slots_per_expert(const Capacity& capacity, std::int64_t group_tokens, std::int64_t selected,
                              std::int64_t experts) {
  VITRAIL_EXPECT(capacity.factor.has_value() != capacity.slots.has_value(), ExitCode::usage,
                 "the capacity must be given once", "either as a factor or as a number of slots", "Set one of the two");
  if (capacity.slots) {
    VITRAIL_EXPECT(*capacity.slots >= 1, ExitCode::usage, text("a capacity of ", *capacity.slots, " slots"),
                   "every expert needs at least one", "");
    return *capacity.slots;
  }
  // Left to right in double, as the original computes it: S=800, K=2, E=8, factor 1.1 gives 221 before the multiple.
  const double exact = static_cast<double>(group_tokens * selected) * *capacity.factor / static_cast<double>(experts);
  double rounded = 0;
  switch (capacity.rounding) {
    case Capacity::Rounding::ceil:
      rounded = std::ceil(exact);
      break;
    case Capacity::Rounding::nearest:
      rounded = std::nearbyint(exact);
      break;
    case Capacity::Rounding::floor:
      rounded = std::floor(exact);
      break;
  }
  VITRAIL_EXPECT(rounded >= 1 && rounded < 0x1p31, ExitCode::usage,
                 text("capacity factor ", *capacity.factor, " gives ", rounded, " slots per expert"),
                 text("a group has ", group_tokens, " tokens, ", selected, " choices each, for ", experts, " experts"),
                 "Every expert needs at least one slot: raise the factor or the group size");
  auto slots = static_cast<std::int64_t>(rounded);
  if (capacity.multiple_of > 0)
    slots = (slots + capacity.multiple_of - 1) / capacity.multiple_of * capacity.multiple_of;
  return slots;
}

std::int64_t ModelConfig::patches() const { return (image_height / patch_rows) * (image_width / patch_columns); }
std::int64_t ModelConfig::tokens() const { return patches() + (classifier == Classifier::token ? 1 : 0); }
std::int64_t ModelConfig::features() const { return representation > 0 ? representation : width; }
std::int64_t ModelConfig::group_tokens() const {
  return router.group_tokens > 0 ? router.group_tokens : router.group_images * tokens();
}
std::int64_t ModelConfig::slots() const {
  Capacity capacity = router.capacity;
  if (router.kind == RouterKind::soft) {
    capacity.rounding = Capacity::Rounding::nearest;
    capacity.multiple_of = 0;
  }
  return slots_per_expert(capacity, group_tokens(), router.kind == RouterKind::top_k ? router.selected : 1, experts);
}
std::int64_t ModelConfig::choices() const {
  switch (router.kind) {
    case RouterKind::top_k:
      return router.selected;
    case RouterKind::experts_choice:
      return experts;
    case RouterKind::soft:
      break;
  }
  return 1;
}
bool ModelConfig::is_moe(std::int64_t block) const {
  return std::find(moe_blocks.begin(), moe_blocks.end(), block) != moe_blocks.end();
}

namespace {

void expect_positive(std::int64_t value, const char* what) {
  VITRAIL_EXPECT(value > 0, ExitCode::usage, text(what, " is ", value), "it must be positive", "");
}
void expect_rate(double value, const char* what) {
  VITRAIL_EXPECT(value >= 0 && value < 1, ExitCode::usage, text("--", what, " ", value),
                 "it is the share that is left out: it lies in [0, 1)", "");
}
void expect_weight(double value, const char* what) {
  VITRAIL_EXPECT(std::isfinite(value) && value >= 0, ExitCode::usage, text("--", what, " ", value),
                 "it must be a number from 0 up", "");
}

/// "1, 3 and 5".
std::string listed(const std::vector<std::int64_t>& numbers, const char* last) {
  std::string list;
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    list += text(i == 0 ? "" : (i + 1 == numbers.size() ? last : ", "), numbers[i]);
  }
  return list;
}

void check_random_blocks(const ModelConfig& c) {
  for (const std::int64_t block : c.router.random_blocks) {
    std::vector<std::int64_t> nearest;
    for (const std::int64_t moe : c.moe_blocks) {
      const std::int64_t best = nearest.empty() ? std::abs(moe - block) : std::abs(nearest.front() - block);
      if (std::abs(moe - block) < best) nearest.clear();
      if (std::abs(moe - block) <= best) nearest.push_back(moe);
    }
    VITRAIL_EXPECT(c.is_moe(block), ExitCode::usage, text("--random-blocks ", block, ": this block has no router"),
                   text("the MoE blocks are ", listed(c.moe_blocks, " and ")),
                   text("Did you mean ", listed(nearest, " or "), "?"));
  }
}

void check_router(const ModelConfig& c) {
  const RouterConfig& r = c.router;
  expect_positive(c.experts, "experts");
  VITRAIL_EXPECT(r.group_images > 0 || r.group_tokens > 0, ExitCode::usage, "routing groups are empty",
                 "a group holds at least one image", "Set --group-images");
  VITRAIL_EXPECT(std::isfinite(r.noise_std) && r.noise_std >= 0, ExitCode::usage, text("noise_std is ", r.noise_std),
                 "a standard deviation is not negative", "");
  expect_weight(r.importance_weight, "importance-weight");
  expect_weight(r.load_weight, "load-weight");
  expect_weight(r.gshard_weight, "gshard-weight");
  expect_weight(r.z_weight, "z-weight");
  check_random_blocks(c);
  if (r.kind == RouterKind::top_k) {
    VITRAIL_EXPECT(r.selected >= 1 && r.selected <= c.experts, ExitCode::usage, text(r.selected, " experts per token"),
                   text("it must be in 1 .. ", c.experts, ", the experts"),
                   text("Use --selected ", std::clamp<std::int64_t>(r.selected, 1, c.experts), " or change --experts"));
  } else {
    VITRAIL_EXPECT(r.order == TokenOrder::vanilla, ExitCode::usage, "a --token-order for a router that has none",
                   "only tokens that choose experts (--router top-k) queue for slots", "Use --token-order vanilla");
  }
  if (r.kind == RouterKind::soft) {
    VITRAIL_EXPECT(!r.normalize_gates && r.random_blocks.empty(), ExitCode::usage,
                   "normalised gates or random choices with --router soft", "Soft MoE has neither gates nor choices",
                   "Leave them out, or use another --router");
  }
  const std::int64_t slots = c.slots();
  VITRAIL_EXPECT(r.kind != RouterKind::experts_choice || slots <= c.group_tokens(), ExitCode::usage,
                 text("every expert is to choose ", slots, " tokens of a group of ", c.group_tokens()),
                 "it cannot choose a token twice", "Lower --capacity-factor or --capacity-slots");
}

}  // namespace

void ModelConfig::check() const {
  expect_positive(image_height, "image_height");
  expect_positive(image_width, "image_width");
  expect_positive(channels, "channels");
  expect_positive(patch_rows, "patch_rows");
  expect_positive(patch_columns, "patch_columns");
  expect_positive(width, "width");
  expect_positive(mlp_width, "mlp_width");
  expect_positive(heads, "heads");
  expect_positive(blocks, "blocks");
  expect_positive(classes, "classes");
  VITRAIL_EXPECT(representation >= 0, ExitCode::usage, text("representation is ", representation),
                 "it is a width, or 0 for none", "");
  VITRAIL_EXPECT(patches() > 0, ExitCode::usage,
                 text("an image of ", image_height, "x", image_width, " pixels holds no patch of ", patch_rows, "x",
                      patch_columns),
                 "an image must be at least one patch", "Use a smaller patch or larger images");
  VITRAIL_EXPECT(width % heads == 0, ExitCode::usage, text("width ", width, " is not divisible by ", heads, " heads"),
                 "every head has width / heads channels", text("Use --heads ", std::gcd(width, heads)));
  VITRAIL_EXPECT(positions != PositionEmbedding::sincos2d || (width % 4 == 0 && width >= 8), ExitCode::usage,
                 text("--positions sincos2d with a width of ", width),
                 "rows and columns have a sine and a cosine each: the width is a multiple of 4 and at least 8",
                 text("Use --width ", std::max<std::int64_t>(8, (width + 3) / 4 * 4), " or --positions learned"));
  VITRAIL_EXPECT(std::isfinite(position_temperature) && position_temperature > 0, ExitCode::usage,
                 text("--position-temperature ", position_temperature), "it must be a positive number", "");
  VITRAIL_EXPECT(std::isfinite(head_bias), ExitCode::usage, text("--head-bias ", head_bias), "it must be a number", "");
  expect_rate(dropout, "dropout");
  expect_rate(attention_dropout, "attention-dropout");
  expect_rate(expert_dropout, "expert-dropout");
  expect_rate(stochastic_depth, "stochastic-depth");
  for (std::size_t i = 0; i < moe_blocks.size(); ++i) {
    VITRAIL_EXPECT(moe_blocks[i] >= 0 && moe_blocks[i] < blocks && (i == 0 || moe_blocks[i - 1] < moe_blocks[i]),
                   ExitCode::usage, text("MoE block ", moe_blocks[i]),
                   text("indices must ascend and lie in 0 .. ", blocks - 1), "");
  }
  if (!moe_blocks.empty()) check_router(*this);
}

std::vector<std::int64_t> moe_blocks_by_name(const std::string& name, std::int64_t blocks) {
  if (name == "none") return {};
  std::vector<std::int64_t> chosen = moe_blocks_by_number(name);
  if (!chosen.empty()) return chosen;
  const std::size_t dash = name.find('-');
  const std::string kind = name.substr(0, dash);
  std::int64_t n = 0;
  if (dash != std::string::npos && name.find_first_not_of("0123456789", dash + 1) == std::string::npos &&
      name.size() > dash + 1 && name.size() < dash + 6) {
    n = std::stoll(name.substr(dash + 1));
  }
  VITRAIL_EXPECT((kind == "every" || kind == "last") && n > 0, ExitCode::usage, text("MoE blocks '", name, "'"),
                 "the names are none, every-N and last-N, or ascending numbers from 0: 6-11 or 1,3",
                 "Every-2 makes all blocks of odd index sparse");
  if (kind == "every") {
    for (std::int64_t block = n - 1; block < blocks; block += n) chosen.push_back(block);
  } else {
    for (std::int64_t block = 1; block < blocks; block += 2) chosen.push_back(block);
    if (std::ssize(chosen) > n) chosen.erase(chosen.begin(), chosen.end() - static_cast<std::ptrdiff_t>(n));
  }
  return chosen;
}

namespace {

/// Rows of the experts' MLPs per token: without rounding where the capacity is a factor.
double slots_per_token(const ModelConfig& c) {
  const double choices = c.router.kind == RouterKind::top_k ? static_cast<double>(c.router.selected) : 1.0;
  if (c.router.capacity.factor && c.router.kind != RouterKind::soft) return choices * *c.router.capacity.factor;
  return static_cast<double>(c.experts * c.slots()) / static_cast<double>(c.group_tokens());
}

/// An MoE block's router and experts, T tokens. Soft MoE: logits of every token and slot of the group, R = E*C, and
/// products with the dispatch and the combine weights, which the other routers replace by copying rows.
double moe_flops(const ModelConfig& c) {
  const auto d = static_cast<double>(c.width);
  const auto t = static_cast<double>(c.tokens());
  const double experts = 4 * t * d * static_cast<double>(c.mlp_width) * slots_per_token(c);
  if (c.router.kind != RouterKind::soft) return experts + 2 * t * d * static_cast<double>(c.experts);
  const auto r = static_cast<double>(c.experts * c.slots());
  return experts + 2 * t * d * r + 4 * t * r * d;
}

/// Attention pooling: one query of all tokens' keys and values, then the MLP of one token.
double map_head_flops(const ModelConfig& c) {
  const auto d = static_cast<double>(c.width);
  const auto t = static_cast<double>(c.tokens());
  return (4 * d * d + 4 * t * d * d) + 4 * t * d + 4 * d * static_cast<double>(c.mlp_width);
}

}  // namespace

double forward_flops_per_image(const ModelConfig& c) {
  const auto d = static_cast<double>(c.width);
  const auto t = static_cast<double>(c.tokens());
  const auto sparse = static_cast<double>(c.moe_blocks.size());
  const auto dense = static_cast<double>(c.blocks) - sparse;
  const auto patch = static_cast<double>(c.patch_rows * c.patch_columns * c.channels);
  double flops = 2 * static_cast<double>(c.patches()) * patch * d;
  flops += static_cast<double>(c.blocks) * (8 * t * d * d + 4 * t * t * d);
  flops += dense * 4 * t * d * static_cast<double>(c.mlp_width);
  if (sparse > 0) flops += sparse * moe_flops(c);
  if (c.classifier == Classifier::map) flops += map_head_flops(c);
  flops += 2 * d * static_cast<double>(c.representation);
  flops += 2 * static_cast<double>(c.features() * c.classes);
  return flops;
}

}  // namespace vitrail
