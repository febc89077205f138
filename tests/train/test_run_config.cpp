#include <cmath>

#include <gtest/gtest.h>

#include "train/presets.hpp"

namespace vitrail {
namespace {

/// The message of the usage error that `call` must end in.
template <class Call>
std::string refusal(const Call& call) {
  try {
    call();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::usage);
    return error.what();
  }
  ADD_FAILURE() << "nothing was refused";
  return "";
}

TEST(RunConfig, TheLengthIsGivenOnce) {
  RunConfig config;
  config.batch = 10;
  config.epochs = 1.1;
  EXPECT_EQ(total_steps(config, 100), 11);
  config.epochs = 1;
  EXPECT_EQ(total_steps(config, 101), 11);
  config.steps = 7;
  (void)refusal([&] { (void)total_steps(config, 100); });
  config.epochs = 0;
  EXPECT_EQ(total_steps(config, 100), 7);
  config.steps = 0;
  (void)refusal([&] { (void)total_steps(config, 100); });
}

TEST(RunConfig, WarmupIsAShareOrSteps) {
  EXPECT_EQ(steps_of_share(0.1, 1000), 100);
  EXPECT_EQ(steps_of_share(500, 1000), 500);
  EXPECT_EQ(steps_of_share(0, 1000), 0);
  (void)refusal([] { (void)steps_of_share(-0.1, 1000); });
}

TEST(RunConfig, OnePassTakesAllLeavesThatTheTreeAllows) {
  RunConfig config = preset("fmnist");
  resolve(config);
  config.batch = 96;
  config.leaf_images = 8;  // 12 leaves: 3 trees of 4
  EXPECT_EQ(make_layout(config, 0, 1).leaves_per_pass, 4);
  EXPECT_EQ(make_layout(config, 0, 1).passes(), 3);
  EXPECT_EQ(make_layout(config, 0, 3).leaves_per_pass, 4);
  config.expert_parallel = 2;
  EXPECT_EQ(make_layout(config, 0, 2).leaves_per_pass, 2);
  EXPECT_EQ(make_layout(config, 1, 2).passes(), 3);
}

TEST(RunConfig, UnknownNamesAreRefusedWithTheNearest) {
  RunConfig config;
  config.schedule = "cosin";
  EXPECT_NE(refusal([&] { (void)make_schedule(config, 10); }).find("'cosine'"), std::string::npos);
  config.loss = "softmx";
  EXPECT_NE(refusal([&] { (void)make_loss(config); }).find("'softmax'"), std::string::npos);
  config.recompute = "blok";
  EXPECT_NE(refusal([&] { (void)make_recompute(config); }).find("'block'"), std::string::npos);
  config.mixup_draw = "laef";
  EXPECT_NE(refusal([&] { (void)make_mixup(config); }).find("'leaf'"), std::string::npos);
}

TEST(RunConfig, SmoothingSharesOutAPartOfTheLabel) {
  RunConfig config;
  config.model.classes = 4;
  EXPECT_EQ(make_target_values(config).on, 1);
  EXPECT_EQ(make_target_values(config).off, 0);
  config.label_smoothing = 0.1;
  EXPECT_DOUBLE_EQ(make_target_values(config).on, 0.925);
  EXPECT_DOUBLE_EQ(make_target_values(config).off, 0.025);
  for (const double wrong : {-0.1, 1.0, std::nan("")}) {
    config.label_smoothing = wrong;
    EXPECT_NE(refusal([&] { resolve(config); }).find("--label-smoothing"), std::string::npos);
  }
}

TEST(RunConfig, MixupFitsIntoALeaf) {
  RunConfig config = preset("fmnist");
  config.leaf_images = 4;
  config.mixup_images = 5;
  EXPECT_EQ(make_mixup(config).images, 1);  // off: the number says nothing
  config.mixup = 0.2;
  EXPECT_NE(refusal([&] { resolve(config); }).find("--mixup-images 5"), std::string::npos);
  config.mixup_images = 1;
  EXPECT_NE(refusal([&] { resolve(config); }).find("--mixup-images 1"), std::string::npos);
  config.mixup_images = 4;
  config.mixup_draw = "image";
  EXPECT_EQ(make_mixup(config).images, 4);
  EXPECT_EQ(make_mixup(config).draw, MixupDraw::image);
  EXPECT_EQ(make_mixup(config).concentration, 0.2);
  for (const double wrong : {-0.2, std::nan(""), HUGE_VAL}) {
    config.mixup = wrong;
    EXPECT_NE(refusal([&] { resolve(config); }).find("--mixup "), std::string::npos);
  }
}

TEST(RunConfig, OptimizersTakeTheirSettings) {
  RunConfig config;
  EXPECT_EQ(make_optimizer(config).kind, OptimizerKind::adamw);
  config.optimizer = "sgd";
  config.momentum = 0;
  config.frozen = "^Encoder/";
  EXPECT_EQ(make_optimizer(config).kind, OptimizerKind::sgd);
  EXPECT_EQ(make_optimizer(config).momentum, 0);
  EXPECT_EQ(make_optimizer(config).frozen, "^Encoder/");
  config.optimizer = "adafactor";
  config.momentum = .8;
  config.bf16_momentum = true;
  config.factored_above = 16;
  config.average_decay = .99;
  const OptimizerConfig optimizer = make_optimizer(config);
  EXPECT_EQ(optimizer.kind, OptimizerKind::adafactor);
  EXPECT_EQ(optimizer.momentum, .8);
  EXPECT_TRUE(optimizer.bf16_momentum);
  EXPECT_EQ(optimizer.factored_above, 16);
  EXPECT_EQ(optimizer.average_decay, .99);
  EXPECT_EQ(optimizer.square_epsilon, 1e-30);
}

TEST(RunConfig, ImpossibleAndContradictingOptimizersAreRefused) {
  const auto refused = [](const auto& change, const std::string& said) {
    RunConfig config;
    change(config);
    EXPECT_NE(refusal([&] { (void)make_optimizer(config); }).find(said), std::string::npos) << said;
  };
  refused([](RunConfig& c) { c.optimizer = "adafctor"; }, "'adafactor'");
  refused([](RunConfig& c) { c.beta2 = 1; }, "--beta2 1");
  refused([](RunConfig& c) { c.average_decay = 1; }, "--average-decay 1");
  refused([](RunConfig& c) { c.optimizer = "sgd", c.momentum = -.1; }, "--momentum -0.1");
  refused([](RunConfig& c) { c.momentum = .5; }, "--momentum 0.5 with --optimizer adamw");
  refused([](RunConfig& c) { c.factored_above = 16; }, "--factored-above 16 with --optimizer adamw");
  refused([](RunConfig& c) { c.optimizer = "adafactor", c.factored_above = 1; }, "--factored-above 1");
  refused([](RunConfig& c) { c.optimizer = "sgd", c.momentum = 0, c.bf16_momentum = true; }, "--momentum 0");
}

TEST(RunConfig, SchedulesTakeTheirSettings) {
  RunConfig config;
  config.schedule = "polynomial";
  config.power = .5;
  EXPECT_EQ(make_schedule(config, 100).power, .5);
  config.power = 1;
  config.schedule = "exponential";
  config.staircase = true;
  config.decay_rate = .9;
  config.transition_steps = .05;
  const Schedule schedule = make_schedule(config, 100);
  EXPECT_EQ(schedule.transition_steps, 5);
  EXPECT_EQ(schedule.decay_rate, .9);
  EXPECT_TRUE(schedule.staircase);
  EXPECT_EQ(schedule.end_value, 1e-5);
  EXPECT_EQ(make_schedule(config, 3).transition_steps, 1) << "of a very short run";
  config.final_learning_rate = 0;
  EXPECT_FALSE(make_schedule(config, 100).end_value.has_value());
}

TEST(RunConfig, ImpossibleAndContradictingSchedulesAreRefused) {
  const auto refused = [](const std::string& schedule, const auto& change, const std::string& said) {
    RunConfig config;
    config.schedule = schedule;
    change(config);
    EXPECT_NE(refusal([&] { (void)make_schedule(config, 100); }).find(said), std::string::npos) << said;
  };
  refused(
      "linear", [](RunConfig& c) { c.final_learning_rate = -1; }, "--final-learning-rate -1");
  refused(
      "linear", [](RunConfig& c) { c.power = 2; }, "--power 2 with --schedule linear");
  refused(
      "cosine", [](RunConfig& c) { c.staircase = true; }, "--staircase with --schedule cosine");
  refused(
      "linear", [](RunConfig& c) { c.cooldown = .1; }, "--cooldown 0.1 with --schedule linear");
  refused(
      "polynomial", [](RunConfig& c) { c.power = 0; }, "--power 0");
  refused(
      "rsqrt", [](RunConfig& c) { c.timescale = 0; }, "--timescale 0");
  refused(
      "rsqrt", [](RunConfig& c) { c.warmup = 60, c.cooldown = 50; }, "60 and 50 of 100 steps");
  refused(
      "exponential", [](RunConfig& c) { c.decay_rate = 0; }, "--decay-rate 0");
  refused(
      "exponential", [](RunConfig& c) { c.transition_steps = 0; }, "--transition-steps 0");
  refused(
      "exponential", [](RunConfig& c) { c.final_learning_rate = .1; }, "--final-learning-rate 0.1");
}

}  // namespace
}  // namespace vitrail
