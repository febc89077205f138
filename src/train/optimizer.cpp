#include "train/optimizer.hpp"

#include <algorithm>
#include <cmath>
#include <regex>

#include "device/host_values.hpp"

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

}  // namespace

std::vector<std::int64_t> optimizer_pieces(const OptimizerConfig& config, const std::vector<ParameterSpec>& table,
                                           bool all_experts_here) {
  if (config.kind != OptimizerKind::adafactor) return {};
  return adafactor_pieces(table, config.factored_above, all_experts_here);
}

void expect_some_are_frozen(const OptimizerConfig& config, const std::vector<ParameterSpec>& table) {
  if (config.frozen.empty()) return;
  const auto frozen =
      std::count_if(table.begin(), table.end(), [&](const auto& spec) { return is_frozen(config, spec.name); });
  VITRAIL_EXPECT(frozen > 0, ExitCode::usage, text("--frozen '", config.frozen, "'"),
                 "it is found in no parameter's name", text("Names are like ", table.front().name));
  VITRAIL_EXPECT(frozen < std::ssize(table), ExitCode::usage, text("--frozen '", config.frozen, "'"),
                 "it is found in every parameter's name: nothing would be trained", "");
}

double gradient_multiplier(const OptimizerConfig& config, const std::string& name) {
  return first_match(config.gradient_scale, name, 1);
}

Optimizer::OfTensor Optimizer::of_tensor(std::size_t tensor) const {
  const std::string& name = table_[tensor].name;
  return {first_match(config_.decay, name, 0), gradient_multiplier(config_, name), is_frozen(config_, name)};
}

Optimizer::PerTensor Optimizer::per_tensor(Arena& arena, Device& device,
                                           const std::vector<std::size_t>& tensors) const {
  std::vector<double> decay, multiplier;
  std::vector<std::uint8_t> frozen;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    if (i > 0 && tensors[i] == tensors[i - 1]) {
      decay.push_back(decay.back());
      multiplier.push_back(multiplier.back());
      frozen.push_back(frozen.back());
      continue;
    }
    const OfTensor of = of_tensor(tensors[i]);
    decay.push_back(of.decay);
    multiplier.push_back(of.multiplier);
    frozen.push_back(of.frozen ? 1 : 0);
  }
  return {allocate_with(arena, device, decay), allocate_with(arena, device, multiplier),
          allocate_with(arena, device, frozen)};
}

Optimizer::Optimizer(Arena& arena, Device& device, Dtype real, const OptimizerConfig& config,
                     const std::vector<ParameterSpec>& table, const FlatLayout& layout, std::int64_t owner,
                     const std::vector<bool>& early)
    : config_(config), table_(table), slice_(layout.slice(owner)), runs_(layout.runs(owner)) {
  VITRAIL_EXPECT(config.clip_norm == 0 || config.clip_absolute == 0, ExitCode::usage,
                 "gradients are to be clipped by norm and by element", "one excludes the other",
                 "Set one of them to 0");
  VITRAIL_EXPECT(config.frozen.empty() || config.trainable.empty(), ExitCode::usage,
                 "both frozen and trainable parameters are named", "one follows from the other", "Give one pattern");
  lay_out_ranges(arena, device, layout, early);

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
      lay_out_units(arena, device, layout, owner);
      v_ = arena.allocate(real, {units_->statistics});
      break;
  }
  if (config.average_decay > 0) average_ = add_state(arena, real, "average/");
}

void Optimizer::lay_out_ranges(Arena& arena, Device& device, const FlatLayout& layout, const std::vector<bool>& early) {
  const auto block = [&](std::int64_t i) -> const FlatBlock& {
    return layout.blocks()[static_cast<std::size_t>(slice_.first_block + i)];
  };
  const auto is_early = [&](std::int64_t i) { return !early.empty() && early[block(i).tensor]; };
  const auto begin_of = [&](std::int64_t i) {
    return i < slice_.blocks ? block(i).begin - slice_.begin : slice_.count;
  };
  for (std::int64_t first = 0, end = 0; first < slice_.blocks; first = end) {
    for (end = first + 1; end < slice_.blocks && is_early(end) == is_early(first);) ++end;
    if (is_early(first)) continue;
    std::vector<std::int64_t> begin;
    std::vector<std::size_t> tensors;
    for (std::int64_t i = first; i <= end; ++i) begin.push_back(begin_of(i) - begin_of(first));
    for (std::int64_t i = first; i < end; ++i) tensors.push_back(block(i).tensor);
    ranges_.push_back({first, end - first, begin_of(first), begin.back(), allocate_with(arena, device, begin),
                       per_tensor(arena, device, tensors)});
  }
}

void Optimizer::lay_out_units(Arena& arena, Device& device, const FlatLayout& layout, std::int64_t owner) {
  const std::int64_t above = config_.factored_above;
  units_.emplace(table_, above, adafactor_pieces(table_, above, true), layout, owner);
  unit_begin_ = allocate_with(arena, device, units_->begin);
  factors_ = allocate_with(arena, device, units_->factors).view({unit_begin_.elements(), 5});
  statistics_begin_ = allocate_with(arena, device, units_->statistics_begin);
  of_units_ = per_tensor(arena, device, units_->tensor);
}

Tensor Optimizer::add_state(Arena& arena, Dtype real, const std::string& kind) {
  elementwise_.push_back({kind, arena.allocate(real, {slice_.count})});
  return elementwise_.back().values;
}

void Optimizer::start_average(Device& device, ConstTensor parameter) {
  if (config_.average_decay > 0) device.copy(parameter, average_);
}

void Optimizer::square_sums(Ops& ops, ConstTensor gradient, Tensor sums) const {
  for (const BlockRange& range : ranges_) {
    ops.block_square_sums(
        {.x = range.of(gradient), .block_begin = range.block_begin, .sums = sums.slice(range.first, range.blocks)});
  }
}

void Optimizer::update(Ops& ops, const Update& update) const {
  switch (config_.kind) {
    case OptimizerKind::adamw:
      adamw(ops, update);
      break;
    case OptimizerKind::sgd:
      sgd(ops, update);
      break;
    case OptimizerKind::adafactor:
      adafactor(ops, update);
      break;
  }
  if (config_.average_decay > 0) {
    ops.running_average({.x = update.parameter, .halt = update.halt, .decay = config_.average_decay, .y = average_});
  }
}

void Optimizer::adamw(Ops& ops, const Update& update) const {
  for (const BlockRange& range : ranges_) {
    ops.adamw_step({.gradient = range.of(update.gradient),
                    .block_begin = range.block_begin,
                    .decay = range.per_block.decay,
                    .multiplier = range.per_block.multiplier,
                    .frozen = range.per_block.frozen,
                    .gradient_scale = update.clip,
                    .halt = update.halt,
                    .clip_absolute = config_.clip_absolute,
                    .learning_rate = update.learning_rate,
                    .beta1 = config_.beta1,
                    .beta2 = config_.beta2,
                    .epsilon = config_.epsilon,
                    .updates = update.updates,
                    .bf16_moment = config_.bf16_momentum,
                    .parameter = range.of(update.parameter),
                    .m = range.of(m_),
                    .v = range.of(v_)});
  }
}

EarlyUpdate Optimizer::early_update(std::size_t tensor, Tensor parameter) const {
  const auto run = std::find_if(runs_.begin(), runs_.end(), [&](const FlatRun& one) { return one.tensor == tensor; });
  VITRAIL_EXPECT(run != runs_.end() && run->count == parameter.elements(), ExitCode::other,
                 text("an early update of ", table_[tensor].name), "this owner has not all of it", "This is a bug");
  VITRAIL_EXPECT(config_.kind == OptimizerKind::adamw && !config_.bf16_momentum && config_.clip_norm == 0 &&
                     config_.clip_absolute == 0,
                 ExitCode::usage, "weights are to be updated early", "that is AdamW in f32 without clipping",
                 "Try --optimizer adamw --clip-norm 0 without --bf16-momentum, or no --early-update");
  const auto of_it = [&](const Tensor& state) { return state.slice(run->in_slice, run->count).view(parameter.shape); };
  const OfTensor of = of_tensor(tensor);
  return {.decay = of.decay,
          .multiplier = of.multiplier,
          .frozen = of.frozen,
          .beta1 = config_.beta1,
          .beta2 = config_.beta2,
          .epsilon = config_.epsilon,
          .parameter = parameter,
          .m = of_it(m_),
          .v = of_it(v_)};
}

void Optimizer::sgd(Ops& ops, const Update& update) const {
  for (const BlockRange& range : ranges_) {
    ops.sgd_step({.gradient = range.of(update.gradient),
                  .block_begin = range.block_begin,
                  .decay = range.per_block.decay,
                  .multiplier = range.per_block.multiplier,
                  .frozen = range.per_block.frozen,
                  .gradient_scale = update.clip,
                  .halt = update.halt,
                  .clip_absolute = config_.clip_absolute,
                  .learning_rate = update.learning_rate,
                  .momentum = config_.momentum,
                  .bf16_trace = config_.bf16_momentum,
                  .parameter = range.of(update.parameter),
                  .trace = m_ ? range.of(m_) : Tensor()});
  }
}

void Optimizer::adafactor(Ops& ops, const Update& update) const {
  const double exact_decay = 1 - std::pow(static_cast<double>(update.updates), -config_.decay_exponent);
  ops.adafactor_step({.gradient = update.gradient,
                      .unit_begin = unit_begin_,
                      .factors = factors_,
                      .statistics_begin = statistics_begin_,
                      .decay = of_units_.decay,
                      .multiplier = of_units_.multiplier,
                      .frozen = of_units_.frozen,
                      .gradient_scale = update.clip,
                      .halt = update.halt,
                      .clip_absolute = config_.clip_absolute,
                      .learning_rate = update.learning_rate,
                      .decay_rate = std::min(config_.decay_rate_max, exact_decay),
                      .epsilon = config_.square_epsilon,
                      .momentum = config_.momentum,
                      .bf16_momentum = config_.bf16_momentum,
                      .parameter = update.parameter,
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

}  // namespace vitrail
