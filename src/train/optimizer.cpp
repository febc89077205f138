#include "train/optimizer.hpp"

#include <algorithm>
#include <cmath>
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

std::vector<std::int64_t> optimizer_pieces(const OptimizerConfig& config, const std::vector<ParameterSpec>& table,
                                           bool all_experts_here) {
  if (config.kind != OptimizerKind::adafactor) return {};
  return adafactor_pieces(table, config.factored_above, all_experts_here);
}

void Optimizer::PerTensor::add(const OptimizerConfig& config, const std::vector<ParameterSpec>& table,
                               std::size_t tensor) {
  if (!decay.empty() && tensor == last) {
    decay.push_back(decay.back());
    multiplier.push_back(multiplier.back());
    frozen.push_back(frozen.back());
    return;
  }
  last = tensor;
  const std::string& name = table[tensor].name;
  decay.push_back(first_match(config.decay, name, 0));
  multiplier.push_back(first_match(config.gradient_scale, name, 1));
  frozen.push_back(is_frozen(config, name) ? 1 : 0);
}

Optimizer::Optimizer(Arena& arena, Dtype real, const OptimizerConfig& config, const std::vector<ParameterSpec>& table,
                     const FlatLayout& layout, std::int64_t owner)
    : config_(config), table_(table), slice_(layout.slice(owner)), runs_(layout.runs(owner)) {
  VITRAIL_EXPECT(config.clip_norm == 0 || config.clip_absolute == 0, ExitCode::usage,
                 "gradients are to be clipped by norm and by element", "one excludes the other",
                 "Set one of them to 0");
  VITRAIL_EXPECT(config.frozen.empty() || config.trainable.empty(), ExitCode::usage,
                 "both frozen and trainable parameters are named", "one follows from the other", "Give one pattern");
  for (std::int64_t i = 0; i < slice_.blocks; ++i) {
    const FlatBlock& block = layout.blocks()[static_cast<std::size_t>(slice_.first_block + i)];
    block_begin_.push_back(block.begin - slice_.begin);
    blocks_.add(config, table, block.tensor);
  }
  block_begin_.push_back(slice_.count);
  sums_.resize(static_cast<std::size_t>(slice_.blocks));

  switch (config.kind) {
    case OptimizerKind::adamw:
      m_ = add_state(arena, real, "adam_m/");
      v_ = add_state(arena, real, "adam_v/");
      break;
    case OptimizerKind::sgd:
      if (config.momentum > 0) m_ = add_state(arena, real, "sgd_momentum/");
      break;
    case OptimizerKind::adafactor:
      if (config.momentum > 0) m_ = add_state(arena, real, "adafactor_momentum/");
      units_.emplace(table, config.factored_above, adafactor_pieces(table, config.factored_above, true), layout, owner);
      for (const std::size_t tensor : units_->tensor) of_units_.add(config, table, tensor);
      v_ = arena.allocate(real, {units_->statistics});
      break;
  }
  if (config.average_decay > 0) average_ = add_state(arena, real, "average/");
}

Tensor Optimizer::add_state(Arena& arena, Dtype real, const std::string& kind) {
  elementwise_.push_back({kind, arena.allocate(real, {slice_.count})});
  return elementwise_.back().values;
}

void Optimizer::start_average(Device& device, ConstTensor parameter) {
  if (config_.average_decay > 0) device.copy(parameter, average_);
}

std::vector<double> Optimizer::square_sums(Ops& ops, ConstTensor gradient) {
  ops.block_square_sums(
      {.x = gradient, .block_begin = view(block_begin_), .sums = Tensor(sums_.data(), {slice_.blocks}, Dtype::f64)});
  std::vector<double> scaled = sums_;
  for (std::size_t i = 0; i < scaled.size(); ++i) scaled[i] *= blocks_.multiplier[i] * blocks_.multiplier[i];
  return scaled;
}

void Optimizer::update(Ops& ops, ConstTensor gradient, double clip, double learning_rate, std::int64_t updates,
                       Tensor parameter) {
  switch (config_.kind) {
    case OptimizerKind::adamw:
      adamw(ops, gradient, clip, learning_rate, updates, parameter);
      break;
    case OptimizerKind::sgd:
      sgd(ops, gradient, clip, learning_rate, parameter);
      break;
    case OptimizerKind::adafactor:
      adafactor(ops, gradient, clip, learning_rate, updates, parameter);
      break;
  }
  if (config_.average_decay > 0) {
    ops.running_average({.x = parameter, .decay = config_.average_decay, .y = average_});
  }
}

void Optimizer::adamw(Ops& ops, ConstTensor gradient, double clip, double learning_rate, std::int64_t updates,
                      Tensor parameter) {
  ops.adamw_step({.gradient = gradient,
                  .block_begin = view(block_begin_),
                  .decay = view(blocks_.decay),
                  .multiplier = view(blocks_.multiplier),
                  .frozen = view(blocks_.frozen),
                  .gradient_scale = clip,
                  .clip_absolute = config_.clip_absolute,
                  .learning_rate = learning_rate,
                  .beta1 = config_.beta1,
                  .beta2 = config_.beta2,
                  .epsilon = config_.epsilon,
                  .updates = updates,
                  .bf16_moment = config_.bf16_momentum,
                  .parameter = parameter,
                  .m = m_,
                  .v = v_});
}

void Optimizer::sgd(Ops& ops, ConstTensor gradient, double clip, double learning_rate, Tensor parameter) {
  ops.sgd_step({.gradient = gradient,
                .block_begin = view(block_begin_),
                .decay = view(blocks_.decay),
                .multiplier = view(blocks_.multiplier),
                .frozen = view(blocks_.frozen),
                .gradient_scale = clip,
                .clip_absolute = config_.clip_absolute,
                .learning_rate = learning_rate,
                .momentum = config_.momentum,
                .bf16_trace = config_.bf16_momentum,
                .parameter = parameter,
                .trace = m_});
}

void Optimizer::adafactor(Ops& ops, ConstTensor gradient, double clip, double learning_rate, std::int64_t updates,
                          Tensor parameter) {
  const auto units = static_cast<std::int64_t>(units_->begin.size());
  const double exact_decay = 1 - std::pow(static_cast<double>(updates), -config_.decay_exponent);
  ops.adafactor_step({.gradient = gradient,
                      .unit_begin = view(units_->begin),
                      .factors = view(units_->factors).view({units, 5}),
                      .statistics_begin = view(units_->statistics_begin),
                      .decay = view(of_units_.decay),
                      .multiplier = view(of_units_.multiplier),
                      .frozen = view(of_units_.frozen),
                      .gradient_scale = clip,
                      .clip_absolute = config_.clip_absolute,
                      .learning_rate = learning_rate,
                      .decay_rate = std::min(config_.decay_rate_max, exact_decay),
                      .epsilon = config_.square_epsilon,
                      .momentum = config_.momentum,
                      .bf16_momentum = config_.bf16_momentum,
                      .parameter = parameter,
                      .statistics = v_,
                      .m = m_});
}

std::vector<StatePiece> Optimizer::state() const {
  std::vector<StatePiece> pieces;
  for (const Elementwise& state : elementwise_) {
    for (const FlatRun& run : runs_) {
      const ParameterSpec& spec = table_[run.tensor];
      pieces.push_back({state.kind + spec.name, spec.shape, run.first, state.values.slice(run.in_slice, run.count)});
    }
  }
  for (std::size_t unit = 0; units_ && unit < units_->entries.size(); ++unit) {
    const std::string& name = table_[units_->tensor[unit]].name;
    for (const AdafactorUnits::Statistic& one : units_->entries[unit]) {
      pieces.push_back({text("adafactor_", one.kind, "/", name), one.shape, one.first, v_.slice(one.begin, one.count)});
    }
  }
  return pieces;
}

double clip_factor(const OptimizerConfig& config, double norm) {
  return config.clip_norm > 0 && norm >= config.clip_norm ? config.clip_norm / norm : 1.0;
}

}  // namespace vitrail
