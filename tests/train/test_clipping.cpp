#include <cmath>

#include <gtest/gtest.h>

#include "device/host_values.hpp"
#include "train/clipping.hpp"
#include "train/presets.hpp"
#include "train/state.hpp"

namespace vitrail {
namespace {

/// A clip on memory of its own, over the parameters of a small run in the place of gradients.
class Clipping : public ::testing::Test {
 protected:
  void start(RunConfig config) {
    resolve(config);
    state_.emplace(config, *device_, *ops_, *world_);
    arena_ = std::make_unique<Arena>("clip", *device_, 1 << 16);
    clip_.emplace(*arena_, *device_, norm_plan(*state_), 1, config.clip_norm);
    const StepRow row(*state_);
    const Optimizer& dense = state_->dense->optimizer;
    const Optimizer& expert = state_->expert->optimizer;
    dense.square_sums(*ops_, state_->dense->values, clip_->row().slice(0, dense.slice().blocks));
    expert.square_sums(*ops_, state_->expert->values, clip_->row().slice(row.expert_blocks, expert.slice().blocks));
    losses_ = clip_->row().slice(row.losses, row.places - row.losses);
  }
  GlobalClip::Result run() {
    clip_->run(*ops_, *world_);
    return GlobalClip::read(clip_->result());
  }
  [[nodiscard]] double norm() const {
    double sum = 0;
    for (const Tensor& tensor : state_->parameters) {
      for (const double value : to_doubles(tensor)) sum += value * value;
    }
    return std::sqrt(sum);
  }

  std::unique_ptr<Device> device_ = make_cpu_device();
  std::unique_ptr<Ops> ops_ = make_cpu_ops(1);
  std::unique_ptr<Communicator> world_ = make_self_communicator();
  std::optional<TrainState> state_;
  std::unique_ptr<Arena> arena_;
  std::optional<GlobalClip> clip_;
  Tensor losses_;
};

TEST_F(Clipping, TheNormIsTheRootOfAllBlockSums) {
  RunConfig config = preset("fmnist");
  config.clip_norm = 0;
  start(config);
  const GlobalClip::Result result = run();
  EXPECT_NEAR(result.norm, norm(), 1e-9 * result.norm);
  EXPECT_GT(result.norm, 1);
  EXPECT_EQ(result.scale, 1);
  EXPECT_FALSE(result.halted);
}

TEST_F(Clipping, ALargerNormIsBroughtToTheLimit) {
  RunConfig config = preset("fmnist");
  config.clip_norm = 0.5;
  start(config);
  const GlobalClip::Result result = run();
  EXPECT_NEAR(result.norm, norm(), 1e-9 * result.norm);
  EXPECT_EQ(result.scale, 0.5 / result.norm);
}

TEST_F(Clipping, ALossThatIsNotFiniteHaltsUntilTheHostSaysOtherwise) {
  start(preset("fmnist"));
  *losses_.as<double>() = std::nan("");
  const double norm = run().norm;
  EXPECT_TRUE(run().halted);
  *losses_.as<double>() = 1;
  EXPECT_TRUE(run().halted);
  clip_->set_halt(*device_, false);
  EXPECT_FALSE(run().halted);
  EXPECT_EQ(run().norm, norm) << "losses are not part of it";
}

}  // namespace
}  // namespace vitrail
