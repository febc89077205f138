#include <cmath>

#include <gtest/gtest.h>

#include "train/run_config.hpp"

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

TEST(RunConfig, EveryPresetResolvesAndHasALayout) {
  for (const std::string& name : preset_names()) {
    RunConfig config = preset(name);
    resolve(config);
    EXPECT_EQ(make_layout(config, 0, 1).passes(), 1) << name;
    EXPECT_GT(total_steps(config, 60000), 0) << name;
    (void)make_schedule(config, 100);
    (void)make_loss(config);
  }
}

TEST(RunConfig, AMisspeltPresetNamesTheNearest) {
  EXPECT_NE(refusal([] { (void)preset("fmnits"); }).find("'fmnist'"), std::string::npos);
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

}  // namespace
}  // namespace vitrail
