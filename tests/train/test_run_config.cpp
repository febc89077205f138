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
}

}  // namespace
}  // namespace vitrail
