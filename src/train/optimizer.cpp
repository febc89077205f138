#include "train/optimizer.hpp"

#include <regex>

namespace vitrail {

namespace {

bool found(const std::string& pattern, const std::string& name) {
  try {
    return std::regex_search(name, std::regex(pattern));
  } catch (const std::regex_error& error) {
    fail(ExitCode::usage, {text("'", pattern, "' is not a regular expression"), error.what(), ""});
  }
}

double first_match(const std::vector<PatternValue>& patterns, const std::string& name, double otherwise) {
  for (const PatternValue& entry : patterns) {
    if (found(entry.pattern, name)) return entry.value;
  }
  return otherwise;
}

bool is_frozen(const OptimizerConfig& config, const std::string& name) {
  if (!config.frozen.empty()) return found(config.frozen, name);
  return !config.trainable.empty() && !found(config.trainable, name);
}

template <class T>
ConstTensor view(const std::vector<T>& values) {
  return {values.data(), {static_cast<std::int64_t>(values.size())}, dtype_of<T>};
}

}  // namespace

AdamW::AdamW(Arena& arena, Dtype real, const OptimizerConfig& config, const std::vector<ParameterSpec>& table,
             const FlatLayout& layout, std::int64_t owner)
    : config_(config), slice_(layout.slice(owner)) {
  VITRAIL_EXPECT(config.clip_norm == 0 || config.clip_absolute == 0, ExitCode::usage,
                 "gradients are to be clipped by norm and by element", "one excludes the other",
                 "Set one of them to 0");
  VITRAIL_EXPECT(config.frozen.empty() || config.trainable.empty(), ExitCode::usage,
                 "both frozen and trainable parameters are named", "one follows from the other", "Give one pattern");
  m_ = arena.allocate(real, {slice_.count});
  v_ = arena.allocate(real, {slice_.count});
  block_begin_.reserve(static_cast<std::size_t>(slice_.blocks) + 1);
  for (std::int64_t i = 0; i < slice_.blocks; ++i) {
    const FlatBlock& block = layout.blocks()[static_cast<std::size_t>(slice_.first_block + i)];
    const std::string& name = table[block.tensor].name;
    block_begin_.push_back(block.begin - slice_.begin);
    decay_.push_back(first_match(config.decay, name, 0));
    multiplier_.push_back(first_match(config.gradient_scale, name, 1));
    frozen_.push_back(is_frozen(config, name) ? 1 : 0);
  }
  block_begin_.push_back(slice_.count);
  sums_.resize(static_cast<std::size_t>(slice_.blocks));
}

std::vector<double> AdamW::square_sums(Ops& ops, ConstTensor gradient) {
  ops.block_square_sums(
      {.x = gradient, .block_begin = view(block_begin_), .sums = Tensor(sums_.data(), {slice_.blocks}, Dtype::f64)});
  std::vector<double> scaled = sums_;
  for (std::size_t i = 0; i < scaled.size(); ++i) scaled[i] *= multiplier_[i] * multiplier_[i];
  return scaled;
}

void AdamW::update(Ops& ops, ConstTensor gradient, double clip, double learning_rate, std::int64_t updates,
                   Tensor parameter) {
  ops.adamw_step({.gradient = gradient,
                  .block_begin = view(block_begin_),
                  .decay = view(decay_),
                  .multiplier = view(multiplier_),
                  .frozen = view(frozen_),
                  .gradient_scale = clip,
                  .clip_absolute = config_.clip_absolute,
                  .learning_rate = learning_rate,
                  .beta1 = config_.beta1,
                  .beta2 = config_.beta2,
                  .epsilon = config_.epsilon,
                  .updates = updates,
                  .bf16_moment = config_.bf16_moment,
                  .parameter = parameter,
                  .m = m_,
                  .v = v_});
}

double clip_factor(const OptimizerConfig& config, double norm) {
  return config.clip_norm > 0 && norm >= config.clip_norm ? config.clip_norm / norm : 1.0;
}

}  // namespace vitrail
