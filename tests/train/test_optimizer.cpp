// AdamW with the original's order of events. [V-MoE, V-MoE tests]

#include <cmath>
#include <memory>

#include <gtest/gtest.h>

#include "train/optimizer.hpp"

namespace vitrail {
namespace {

/// Scalars named a, b, c ... as parameters of an optimizer that owns them all.
class Scalars {
 public:
  Scalars(const OptimizerConfig& config, const std::vector<double>& values)
      : config_(config), ops_(make_reference_ops()), device_(make_cpu_device()), table_(values.size()) {
    for (std::size_t i = 0; i < values.size(); ++i) {
      table_[i].name = std::string(1, static_cast<char>('a' + i));
      table_[i].shape = {1};
    }
    layout_ = std::make_unique<FlatLayout>(table_, 0, 0, 1);
    arena_ = std::make_unique<Arena>("test", *device_, 1 << 16);
    optimizer_ = std::make_unique<AdamW>(*arena_, Dtype::f64, config, table_, *layout_, 0);
    gradient_ = arena_->allocate(Dtype::f64, {layout_->elements()});
    parameter_ = arena_->allocate(Dtype::f64, {layout_->elements()});
    layout_->cut(table_, gradient_, gradients_);
    layout_->cut(table_, parameter_, parameters_);
    for (std::size_t i = 0; i < values.size(); ++i) *parameters_[i].as<double>() = values[i];
  }
  /// One update; returns the norm before clipping.
  double step(const std::vector<double>& gradient, double learning_rate) {
    for (std::size_t i = 0; i < gradient.size(); ++i) *gradients_[i].as<double>() = gradient[i];
    double squares = 0;
    for (const double sum : optimizer_->square_sums(*ops_, gradient_)) squares += sum;
    const double norm = std::sqrt(squares);
    optimizer_->update(*ops_, gradient_, clip_factor(config_, norm), learning_rate, ++updates_, parameter_);
    return norm;
  }
  [[nodiscard]] double value(std::size_t i) const { return *parameters_[i].as<double>(); }
  /// The first moment of scalar i.
  [[nodiscard]] double moment(std::size_t i) const { return optimizer_->m().as<double>()[layout_->blocks()[i].begin]; }

 private:
  OptimizerConfig config_;
  std::unique_ptr<Ops> ops_;
  std::unique_ptr<Device> device_;
  std::vector<ParameterSpec> table_;
  std::unique_ptr<FlatLayout> layout_;
  std::unique_ptr<Arena> arena_;
  std::unique_ptr<AdamW> optimizer_;
  Tensor gradient_, parameter_;
  std::vector<Tensor> gradients_, parameters_;
  std::int64_t updates_ = 0;
};

TEST(AdamW, FindsTheMinimumOfMcCormicksFunctionWithElementwiseClipping) {
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

TEST(AdamW, ClipsByTheNormOfAllParameters) {
  OptimizerConfig config;
  config.clip_norm = 2;
  Scalars ab(config, {0, 0});
  EXPECT_DOUBLE_EQ(ab.step({1, 2}, .1), std::sqrt(5.0));
  EXPECT_DOUBLE_EQ(ab.moment(0), (1 - .9) * 2 / std::sqrt(5.0));
  EXPECT_DOUBLE_EQ(ab.moment(1), (1 - .9) * 4 / std::sqrt(5.0));
  EXPECT_EQ(clip_factor(config, 2.0), 1.0);
  EXPECT_EQ(clip_factor(config, 1.9), 1.0);
}

TEST(AdamW, ScalesGradientsBeforeItClipsThem) {
  OptimizerConfig config;
  config.clip_norm = 1;
  config.gradient_scale = {{"b", 4}, {".*", .5}};
  Scalars ab(config, {0, 0});
  EXPECT_DOUBLE_EQ(ab.step({6, 1}, .1), 5);  // of (3, 4)
  EXPECT_DOUBLE_EQ(ab.moment(0), (1 - .9) * .6);
  EXPECT_DOUBLE_EQ(ab.moment(1), (1 - .9) * .8);
}

TEST(AdamW, DecaysByTheFirstPatternThatIsFound) {
  OptimizerConfig config;
  config.decay = {{"^a$", .1}, {"[ab]", .2}};
  Scalars abc(config, {1, 1, 1});
  abc.step({0, 0, 0}, .5);
  EXPECT_DOUBLE_EQ(abc.value(0), 1 - .5 * .1);
  EXPECT_DOUBLE_EQ(abc.value(1), 1 - .5 * .2);
  EXPECT_DOUBLE_EQ(abc.value(2), 1);
}

TEST(AdamW, FreezesAllButTheTrainableAndTheFrozenAlone) {
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

TEST(AdamW, RoundsAMomentThatIsBfloat16ButNotTheUpdate) {
  OptimizerConfig config;
  config.bf16_moment = true;
  Scalars a(config, {0});
  a.step({1.2345}, .1);
  EXPECT_EQ(a.moment(0), 0.12353515625);  // 0.12345 to eight bits
  EXPECT_NEAR(a.value(0), -.1, 1e-8);
  a.step({0}, .1);
  EXPECT_EQ(a.moment(0), 0.11083984375);  // 0.8984375 * 0.12353515625 = 0.1109886... to eight bits
}

TEST(AdamW, RefusesContradictionsAndBadPatterns) {
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

}  // namespace
}  // namespace vitrail
