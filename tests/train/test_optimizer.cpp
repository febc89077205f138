// AdamW, SGD and Adafactor with the original's order of events. [V-MoE, V-MoE tests]

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>

#include <gtest/gtest.h>

#include "base/philox.hpp"
#include "train/clipping.hpp"
#include "train/optimizer.hpp"

namespace vitrail {
namespace {

/// Scalars named a, b, c ... as parameters of an optimizer that owns them all.
class Scalars {
 public:
  Scalars(const OptimizerConfig& config, const std::vector<double>& values)
      : ops_(make_reference_ops()), device_(make_cpu_device()), table_(values.size()) {
    for (std::size_t i = 0; i < values.size(); ++i) {
      table_[i].name = std::string(1, static_cast<char>('a' + i));
      table_[i].shape = {1};
    }
    layout_ = std::make_unique<FlatLayout>(table_, 0, 0, 1);
    arena_ = std::make_unique<Arena>("test", *device_, 1 << 16);
    optimizer_ = std::make_unique<Optimizer>(*arena_, *device_, Dtype::f64, config, table_, *layout_, 0);
    NormPlan plan{static_cast<std::int64_t>(values.size())};
    for (std::size_t i = 0; i < values.size(); ++i) {
      plan.order.push_back(static_cast<std::int64_t>(i));
      plan.weights.push_back(std::pow(gradient_multiplier(config, table_[i].name), 2));
    }
    clip_ = std::make_unique<GlobalClip>(*arena_, *device_, plan, 1, config.clip_norm);
    gradient_ = arena_->allocate(Dtype::f64, {layout_->elements()});
    parameter_ = arena_->allocate(Dtype::f64, {layout_->elements()});
    layout_->cut(table_, gradient_, gradients_);
    layout_->cut(table_, parameter_, parameters_);
    for (std::size_t i = 0; i < values.size(); ++i) *parameters_[i].as<double>() = values[i];
  }
  /// One update; returns the norm before clipping.
  double step(const std::vector<double>& gradient, double learning_rate) {
    for (std::size_t i = 0; i < gradient.size(); ++i) *gradients_[i].as<double>() = gradient[i];
    optimizer_->square_sums(*ops_, gradient_, clip_->row());
    clip_->run(*ops_, *make_self_communicator());
    optimizer_->update(*ops_, {.gradient = gradient_,
                               .learning_rate = learning_rate,
                               .updates = ++updates_,
                               .clip = clip_->scale(),
                               .halt = clip_->halt(),
                               .parameter = parameter_});
    return GlobalClip::read(clip_->result()).norm;
  }
  [[nodiscard]] double value(std::size_t i) const { return *parameters_[i].as<double>(); }
  /// The first moment of scalar i.
  [[nodiscard]] double moment(std::size_t i) const { return state("adam_m", i); }
  [[nodiscard]] double state(const std::string& kind, std::size_t i) const {
    for (const StatePiece& piece : optimizer_->state()) {
      if (piece.name == kind + "/" + table_[i].name) return *piece.data.as<double>();
    }
    return std::nan("");
  }

 private:
  std::unique_ptr<Ops> ops_;
  std::unique_ptr<Device> device_;
  std::vector<ParameterSpec> table_;
  std::unique_ptr<FlatLayout> layout_;
  std::unique_ptr<Arena> arena_;
  std::unique_ptr<Optimizer> optimizer_;
  std::unique_ptr<GlobalClip> clip_;
  Tensor gradient_, parameter_;
  std::vector<Tensor> gradients_, parameters_;
  std::int64_t updates_ = 0;
};

TEST(Optimizer, FindsTheMinimumOfMcCormicksFunctionWithElementwiseClipping) {
  OptimizerConfig config;
  config.clip_absolute = 1;
  Scalars xy(config, {0, 0});
  for (int i = 0; i < 200; ++i) {
    const double x = xy.value(0);
    const double y = xy.value(1);
    const double wave = std::cos(x + y);
    xy.step({wave + 2 * (x - y) - 1.5, wave - 2 * (x - y) + 2.5}, .1);
  }
  EXPECT_NEAR(xy.value(0), -.54719, 1e-4 * .54719);
  EXPECT_NEAR(xy.value(1), -1.54719, 1e-4 * 1.54719);
}

TEST(Optimizer, ClipsByTheNormOfAllParameters) {
  OptimizerConfig config;
  config.clip_norm = 2;
  Scalars ab(config, {0, 0});
  EXPECT_DOUBLE_EQ(ab.step({1, 2}, .1), std::sqrt(5.0));
  EXPECT_DOUBLE_EQ(ab.moment(0), (1 - .9) * 2 / std::sqrt(5.0));
  EXPECT_DOUBLE_EQ(ab.moment(1), (1 - .9) * 4 / std::sqrt(5.0));
}

TEST(Optimizer, ScalesGradientsBeforeItClipsThem) {
  OptimizerConfig config;
  config.clip_norm = 1;
  config.gradient_scale = {{"b", 4}, {".*", .5}};
  Scalars ab(config, {0, 0});
  EXPECT_DOUBLE_EQ(ab.step({6, 1}, .1), 5);  // of (3, 4)
  EXPECT_DOUBLE_EQ(ab.moment(0), (1 - .9) * .6);
  EXPECT_DOUBLE_EQ(ab.moment(1), (1 - .9) * .8);
}

TEST(Optimizer, DecaysByTheFirstPatternThatIsFound) {
  OptimizerConfig config;
  config.decay = {{"^a$", .1}, {"[ab]", .2}};
  Scalars abc(config, {1, 1, 1});
  abc.step({0, 0, 0}, .5);
  EXPECT_DOUBLE_EQ(abc.value(0), 1 - .5 * .1);
  EXPECT_DOUBLE_EQ(abc.value(1), 1 - .5 * .2);
  EXPECT_DOUBLE_EQ(abc.value(2), 1);
}

TEST(Optimizer, FreezesAllButTheTrainableAndTheFrozenAlone) {
  OptimizerConfig trainable;
  trainable.trainable = "[ab]";
  trainable.decay = {{"", .1}};
  Scalars first(trainable, {1, 1, 1});
  first.step({1, 1, 1}, .1);
  EXPECT_NE(first.value(0), 1);
  EXPECT_NE(first.value(1), 1);
  EXPECT_EQ(first.value(2), 1) << "neither update nor decay";
  OptimizerConfig frozen;
  frozen.frozen = "a";
  Scalars second(frozen, {1, 1, 1});
  second.step({1, 1, 1}, .1);
  EXPECT_EQ(second.value(0), 1);
  EXPECT_NE(second.value(1), 1);
}

TEST(Optimizer, RoundsAMomentThatIsBfloat16ButNotTheUpdate) {
  OptimizerConfig config;
  config.bf16_momentum = true;
  Scalars a(config, {0});
  a.step({1.2345}, .1);
  EXPECT_EQ(a.moment(0), 0.12353515625);  // 0.12345 to eight bits
  EXPECT_NEAR(a.value(0), -.1, 1e-8);
  a.step({0}, .1);
  EXPECT_EQ(a.moment(0), 0.11083984375);  // 0.8984375 * 0.12353515625 = 0.1109886... to eight bits
}

TEST(Optimizer, RefusesContradictionsAndBadPatterns) {
  const auto refused = [](const OptimizerConfig& config) {
    try {
      const Scalars scalars(config, {0});
    } catch (const Error& error) {
      return error.code() == ExitCode::usage;
    }
    return false;
  };
  OptimizerConfig clips;
  clips.clip_norm = clips.clip_absolute = 1;
  EXPECT_TRUE(refused(clips));
  OptimizerConfig patterns;
  patterns.frozen = patterns.trainable = "a";
  EXPECT_TRUE(refused(patterns));
  OptimizerConfig broken;
  broken.decay = {{"(", .1}};
  EXPECT_TRUE(refused(broken));
}

TEST(Optimizer, RefusesAFrozenPatternThatNamesNothingOrEverything) {
  const std::vector<ParameterSpec> table = {{"Encoder/kernel", {1}}, {"head/kernel", {1}}};
  OptimizerConfig config;
  EXPECT_NO_THROW(expect_some_are_frozen(config, table));
  config.frozen = "^Encoder";
  EXPECT_NO_THROW(expect_some_are_frozen(config, table));
  for (const char* pattern : {"encoder", "kernel"}) {
    config.frozen = pattern;
    EXPECT_THROW(expect_some_are_frozen(config, table), Error) << pattern;
  }
}

// --- SGD -------------------------------------------------------------------------------------------------------------

OptimizerConfig sgd(double momentum) {
  OptimizerConfig config;
  config.kind = OptimizerKind::sgd;
  config.momentum = momentum;
  return config;
}

TEST(Sgd, FindsTheMinimumOfMcCormicksFunctionWithClippingByNorm) {
  OptimizerConfig config = sgd(0);
  config.clip_norm = 1;
  Scalars xy(config, {0, 0});
  for (int i = 0; i < 200; ++i) {
    const double x = xy.value(0);
    const double y = xy.value(1);
    const double wave = std::cos(x + y);
    xy.step({wave + 2 * (x - y) - 1.5, wave - 2 * (x - y) + 2.5}, .1);
  }
  EXPECT_NEAR(xy.value(0), -.54719, 1e-4 * .54719);
  EXPECT_NEAR(xy.value(1), -1.54719, 1e-4 * 1.54719);
}

TEST(Sgd, DecaysBesideItsTrace) {
  OptimizerConfig config = sgd(.5);
  config.decay = {{"a", .1}};
  Scalars ab(config, {1, 1});
  ab.step({1, 1}, .5);
  EXPECT_DOUBLE_EQ(ab.value(0), 1 - .5 * (1 + .1));
  EXPECT_DOUBLE_EQ(ab.value(1), .5);
  ab.step({1, 1}, .5);
  EXPECT_DOUBLE_EQ(ab.state("sgd_momentum", 0), 1.5);
  EXPECT_DOUBLE_EQ(ab.value(1), .5 - .5 * 1.5);
}

TEST(Sgd, HasNoStateWithoutMomentum) {
  Scalars a(sgd(0), {1});
  a.step({1}, .5);
  EXPECT_DOUBLE_EQ(a.value(0), .5);
  EXPECT_TRUE(std::isnan(a.state("sgd_momentum", 0)));
}

// --- Adafactor -------------------------------------------------------------------------------------------------------

TEST(Adafactor, ForgetsItsStatisticsMoreSlowlyWithEveryUpdate) {
  OptimizerConfig config;
  config.kind = OptimizerKind::adafactor;
  Scalars a(config, {0});
  a.step({2}, .1);
  EXPECT_DOUBLE_EQ(a.state("adafactor_v", 0), 4) << "nothing is left of the zero before";
  EXPECT_DOUBLE_EQ(a.value(0), -.1 * .1) << "a tenth of the sign of the gradient";
  a.step({1}, .1);
  const double kept = 1 - std::pow(2, -.8);
  EXPECT_DOUBLE_EQ(a.state("adafactor_v", 0), kept * 4 + (1 - kept));
  config.decay_rate_max = .25;
  Scalars b(config, {0});
  b.step({2}, .1);
  b.step({1}, .1);
  EXPECT_DOUBLE_EQ(b.state("adafactor_v", 0), .25 * 4 + .75);
}

/// A table with matrices, a vector of two blocks, and experts.
std::vector<ParameterSpec> matrices() {
  std::vector<ParameterSpec> table(6);
  table[0] = {"kernel", {40, 50}};
  table[1] = {"vector", {kBlockElements + 7}};
  table[2] = {"query", {6, 2, 5}};
  table[3] = {"experts", {4, 150, 120}, true};
  table[4] = {"expert_bias", {4, 9}, true};
  table[5] = {"last", {3, 3}};
  return table;
}

/// State and parameters of one flat layout after three updates, by name: every element that its owners have.
std::map<std::string, std::vector<float>> train_three_steps(const OptimizerConfig& config, std::int64_t experts_here,
                                                            std::int64_t first_expert, std::int64_t owners) {
  const std::vector<ParameterSpec> table = matrices();
  const FlatLayout layout(table, first_expert, experts_here, owners,
                          optimizer_pieces(config, table, experts_here == 4));
  const auto device = make_cpu_device();
  const auto ops = make_cpu_ops(1);
  Arena arena("test", *device, 1 << 24);
  std::map<std::string, std::vector<float>> result;
  const auto note = [&](const std::string& name, const Shape& shape, std::int64_t first, Tensor data) {
    std::vector<float>& all = result[name];
    all.resize(static_cast<std::size_t>(shape.elements()), -1e9F);
    std::copy_n(data.as<float>(), data.elements(), all.begin() + first);
  };
  for (std::int64_t owner = 0; owner < owners; ++owner) {
    Optimizer optimizer(arena, *device, Dtype::f32, config, table, layout, owner);
    const Tensor parameter = arena.allocate(Dtype::f32, {optimizer.slice().count});
    const Tensor gradient = arena.allocate(Dtype::f32, {optimizer.slice().count});
    for (std::int64_t step = 1; step <= 3; ++step) {
      for (const FlatRun& run : layout.runs(owner)) {
        const Philox random(5, Purpose::test, static_cast<std::uint64_t>(step), static_cast<std::uint32_t>(run.tensor));
        for (std::int64_t i = 0; i < run.count; ++i) {
          gradient.as<float>()[run.in_slice + i] =
              static_cast<float>(random.normal(static_cast<std::uint64_t>(run.first + i)));
        }
      }
      optimizer.update(*ops, {.gradient = gradient, .learning_rate = .1, .updates = step, .parameter = parameter});
    }
    for (const FlatRun& run : layout.runs(owner)) {
      const ParameterSpec& spec = table[run.tensor];
      note("parameters/" + spec.name, spec.shape, run.first, parameter.slice(run.in_slice, run.count));
    }
    for (const StatePiece& piece : optimizer.state()) note(piece.name, piece.shape, piece.first, piece.data);
  }
  return result;
}

OptimizerConfig adafactor(std::int64_t factored_above) {
  OptimizerConfig config;
  config.kind = OptimizerKind::adafactor;
  config.factored_above = factored_above;
  return config;
}

TEST(Adafactor, HasTheSameBitsForAnyNumberOfOwnersAndExpertParallelRanks) {
  const OptimizerConfig config = adafactor(5);
  const auto dense = train_three_steps(config, 0, 0, 1);
  EXPECT_EQ(dense.count("adafactor_over_x/kernel"), 1U);
  EXPECT_EQ(dense.count("adafactor_v/vector"), 1U);
  for (const std::int64_t owners : {2, 3, 7}) {
    EXPECT_TRUE(train_three_steps(config, 0, 0, owners) == dense) << owners << " owners";
  }
  const auto experts = train_three_steps(config, 4, 0, 1);
  for (const std::int64_t owners : {2, 3}) {
    auto first = train_three_steps(config, 2, 0, owners);
    const auto second = train_three_steps(config, 2, 2, owners);
    for (auto& [name, values] : first) {
      const auto half = static_cast<std::ptrdiff_t>(values.size() / 2);
      std::copy(second.at(name).begin() + half, second.at(name).end(), values.begin() + half);
    }
    EXPECT_TRUE(first == experts) << owners << " owners";
  }
}

TEST(Adafactor, CanFactorOverExpertsThatAreTogether) {
  const OptimizerConfig config = adafactor(4);
  const auto one = train_three_steps(config, 4, 0, 1);
  EXPECT_EQ(one.at("adafactor_over_x/expert_bias").size(), 9U);
  EXPECT_EQ(one.at("adafactor_over_y/expert_bias").size(), 4U);
  EXPECT_TRUE(train_three_steps(config, 4, 0, 3) == one);
}

// --- The running average ---------------------------------------------------------------------------------------------

TEST(Optimizer, AveragesBeginAsTheParametersAndFollowThemAfterEveryUpdate) {
  const std::vector<ParameterSpec> table = {{"a", {2}}};
  const FlatLayout layout(table, 0, 0, 1);
  const auto device = make_cpu_device();
  Arena arena("test", *device, 1 << 12);
  OptimizerConfig config = sgd(0);
  config.average_decay = .75;
  Optimizer optimizer(arena, *device, Dtype::f64, config, table, layout, 0);
  const Tensor parameter = arena.allocate(Dtype::f64, {layout.elements()});
  parameter.as<double>()[0] = 2;
  parameter.as<double>()[1] = 4;
  optimizer.start_average(*device, parameter);
  const std::vector<StatePiece> state = optimizer.state();
  ASSERT_EQ(state.size(), 1U);
  EXPECT_EQ(state[0].name, "average/a");
  EXPECT_EQ(state[0].data.as<double>()[0], 2);
  EXPECT_EQ(state[0].data.as<double>()[1], 4);
  const Tensor gradient = arena.allocate(Dtype::f64, {layout.elements()});
  gradient.as<double>()[0] = 4;
  optimizer.update(*make_reference_ops(), {.gradient = gradient, .learning_rate = 1, .parameter = parameter});
  EXPECT_EQ(parameter.as<double>()[0], -2);
  EXPECT_EQ(state[0].data.as<double>()[0], .75 * 2 - .25 * 2);
  EXPECT_EQ(state[0].data.as<double>()[1], 4);
}

}  // namespace
}  // namespace vitrail
