#include <algorithm>
#include <limits>
#include <utility>

#include <gtest/gtest.h>

#include "base/philox.hpp"
#include "device/host_values.hpp"
#include "train/presets.hpp"
#include "train/step.hpp"

namespace vitrail {
namespace {

constexpr std::int64_t kClasses = 10, kLeafImages = 8;

RunConfig small() {
  RunConfig config = preset("fmnist");
  config.model.width = 16;
  config.model.mlp_width = 32;
  config.model.heads = 2;
  config.model.experts = 4;
  config.batch = 4 * kLeafImages;
  config.leaf_images = kLeafImages;
  config.warmup = 0;
  return config;
}

/// A run of one rank on images of noise: image i of the batch has the labels i mod 10 and, with two, i+1 mod 10; every
/// fifth has none.
class SmallRun {
 public:
  explicit SmallRun(const RunConfig& config, std::int64_t labels_per_image = 1,
                    std::unique_ptr<Ops> ops = make_reference_ops())
      : ops_(std::move(ops)), state_(config, *device_, *ops_, *world_, labels_per_image), trainer_(state_, 10) {
    trainer_.warm_up();
  }
  StepReport step() {
    std::int64_t pass = 0;
    return trainer_.step(
        [&](Tensor images, Tensor labels) { fill(state_.layout.first_image(pass++), images, labels); });
  }
  void start_step() {
    std::int64_t pass = 0;
    trainer_.start_step([&](Tensor images, Tensor labels) { fill(state_.layout.first_image(pass++), images, labels); });
  }
  StepReport finish_step() { return trainer_.finish_step(); }
  [[nodiscard]] const Activations& acts() const { return state_.acts; }
  [[nodiscard]] std::int64_t steps() const { return state_.step; }
  /// All parameters, and the state of the optimizer.
  [[nodiscard]] std::vector<double> values() const {
    std::vector<double> all;
    for (const Tensor& tensor : state_.parameters) {
      for (const double value : to_doubles(tensor)) all.push_back(value);
    }
    for (const StatePiece& piece : state_.dense->optimizer.state()) {
      for (const double value : to_doubles(piece.data)) all.push_back(value);
    }
    return all;
  }
  /// A number of the embedding's bias.
  [[nodiscard]] double& bias() { return *state_.params.embedding.b.as<double>(); }

 private:
  void fill(std::int64_t first, Tensor raw_images, Tensor class_labels) const {
    const Philox random(3, Purpose::test, static_cast<std::uint64_t>(state_.step + trainer_.steps_in_flight()));
    const std::int64_t labels = state_.labels_per_image, images = raw_images.shape[0];
    for (std::int64_t i = 0; i < images; ++i) {
      for (std::int64_t l = 0; l < labels; ++l) {
        const bool none = (first + i) % 5 == 0;
        class_labels.as<std::int32_t>()[i * labels + l] =
            none ? -1 : static_cast<std::int32_t>((first + i + l) % kClasses);
      }
    }
    const std::int64_t each = raw_images.elements() / images;
    for (std::int64_t i = 0; i < images * each; ++i) {
      raw_images.as<std::uint8_t>()[i] =
          static_cast<std::uint8_t>(random.bits(static_cast<std::uint64_t>(first * each + i)));
    }
  }

  std::unique_ptr<Device> device_ = make_cpu_device();
  std::unique_ptr<Ops> ops_;
  std::unique_ptr<Communicator> world_ = make_self_communicator();
  TrainState state_;
  Trainer trainer_;
};

RunConfig resolved(RunConfig config) {
  resolve(config);
  return config;
}

TEST(Step, SmoothsLabelsTowardsAllClasses) {
  RunConfig config = small();
  config.label_smoothing = 0.2;
  SmallRun run(resolved(config));
  run.step();
  const std::vector<double> targets = to_doubles(run.acts().targets);
  for (std::int64_t i = 0; i < 4 * kLeafImages; ++i) {
    for (std::int64_t c = 0; c < kClasses; ++c) {
      const bool label = i % 5 != 0 && c == i % kClasses;
      ASSERT_NEAR(targets[static_cast<std::size_t>(i * kClasses + c)], label ? 0.82 : 0.02, 1e-15) << i << " " << c;
    }
  }
}

TEST(Step, TargetsOfSeveralLabelsAreAllOfThem) {
  SmallRun run(resolved(small()), 2);
  run.step();
  const std::vector<double> targets = to_doubles(run.acts().targets);
  for (std::int64_t i = 0; i < 4 * kLeafImages; ++i) {
    for (std::int64_t c = 0; c < kClasses; ++c) {
      const bool label = i % 5 != 0 && (c == i % kClasses || c == (i + 1) % kClasses);
      ASSERT_EQ(targets[static_cast<std::size_t>(i * kClasses + c)], label ? 1 : 0) << i << " " << c;
    }
  }
}

TEST(Step, MixupMixesImagesAndTargetsInsideTheirLeaf) {
  RunConfig config = small();
  config.mixup = 0.8;
  config.mixup_images = 3;
  SmallRun run(resolved(config));
  const StepReport report = run.step();
  const Activations& acts = run.acts();
  const std::vector<double> weights = to_doubles(acts.mix_weights);
  for (const auto& [before, after] :
       {std::pair{acts.unmixed_images, acts.images}, {acts.unmixed_targets, acts.targets}}) {
    const std::vector<double> x = to_doubles(before);
    const std::vector<double> y = to_doubles(after);
    const std::int64_t n = before.elements() / (4 * kLeafImages);
    for (std::int64_t i = 0; i < std::ssize(y); ++i) {
      const std::int64_t image = i / n, leaf = image / kLeafImages;
      double expected = 0;
      for (std::int64_t j = 0; j < 3; ++j) {
        const std::int64_t partner = leaf * kLeafImages + (image + j) % kLeafImages;
        expected += weights[static_cast<std::size_t>(image * 3 + j)] * x[static_cast<std::size_t>(partner * n + i % n)];
      }
      ASSERT_NEAR(y[static_cast<std::size_t>(i)], expected, 1e-14);
    }
    EXPECT_NE(x, y);
  }
  // Accuracy counts the image's own label.
  std::int64_t correct = 0;
  for (std::int64_t i = 0; i < 4 * kLeafImages; ++i) {
    if (acts.predicted.as<std::int32_t>()[i] == acts.labels.as<std::int32_t>()[i]) ++correct;
  }
  EXPECT_EQ(report.metrics.correct, correct);
}

TEST(Step, MixupGivesTheSameBitsForAnyLeavesPerPass) {
  for (const char* draw : {"step", "leaf", "image"}) {
    RunConfig config = small();
    config.mixup = 0.2;
    config.mixup_draw = draw;
    config.label_smoothing = 0.1;
    std::vector<double> losses;
    for (const std::int64_t leaves : {1, 2, 4}) {
      config.leaves_per_pass = leaves;
      SmallRun run(resolved(config), 1, make_cpu_ops(1));
      run.step();
      losses.push_back(run.step().metrics.main_loss);
    }
    EXPECT_EQ(losses, std::vector<double>(3, losses[0])) << draw;
  }
}

TEST(Step, TwoStepsInFlightAreTheSameBitsAsOneAfterAnother) {
  for (const std::int64_t leaves : {1, 4}) {
    RunConfig config = small();
    config.leaves_per_pass = leaves;
    config.clip_norm = 0.5;
    config.average_decay = 0.9;
    SmallRun plain(resolved(config)), ahead(resolved(config));
    std::vector<StepReport> expected, got;
    for (int i = 0; i < 4; ++i) expected.push_back(plain.step());
    ahead.start_step();
    for (int i = 0; i < 3; ++i) {
      ahead.start_step();
      EXPECT_EQ(ahead.steps(), i) << "a step counts when it is finished";
      got.push_back(ahead.finish_step());
    }
    got.push_back(ahead.finish_step());
    for (std::size_t i = 0; i < 4; ++i) {
      EXPECT_EQ(got[i].step, static_cast<std::int64_t>(i + 1));
      EXPECT_EQ(got[i].metrics.main_loss, expected[i].metrics.main_loss);
      EXPECT_EQ(got[i].metrics.correct, expected[i].metrics.correct);
      EXPECT_EQ(got[i].metrics.moe[0].kept, expected[i].metrics.moe[0].kept);
      EXPECT_EQ(got[i].gradient_norm, expected[i].gradient_norm);
      EXPECT_EQ(got[i].learning_rate, expected[i].learning_rate);
      EXPECT_EQ(got[i].clipped, expected[i].clipped);
    }
    EXPECT_EQ(plain.values(), ahead.values());
  }
}

TEST(Step, AThirdStepInFlightIsRefused) {
  SmallRun run(resolved(small()));
  EXPECT_THROW(run.finish_step(), Error);
  run.start_step();
  run.start_step();
  EXPECT_THROW(run.start_step(), Error);
}

TEST(Step, OneThatIsNotFiniteLeavesParametersAndStateAsTheyWere) {
  for (const std::int64_t leaves : {1, 4}) {
    RunConfig config = small();
    config.leaves_per_pass = leaves;
    config.average_decay = 0.9;
    SmallRun never(resolved(config)), run(resolved(config));
    for (SmallRun* one : {&never, &run}) one->step();
    const std::vector<double> before = run.values();
    const double bias = std::exchange(run.bias(), std::numeric_limits<double>::infinity());
    try {
      run.step();
      ADD_FAILURE() << "no error";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::numbers);
      const std::string text = error.what();
      EXPECT_NE(text.find("step 2: loss"), std::string::npos) << text;
      EXPECT_NE(text.find("stands in the embedding on rank 0"), std::string::npos) << text;
    }
    run.bias() = bias;
    EXPECT_EQ(run.values(), before);
    EXPECT_EQ(run.steps(), 1);
    EXPECT_EQ(run.step().metrics.main_loss, never.step().metrics.main_loss);
    EXPECT_EQ(run.values(), never.values()) << "later steps go on from there";
  }
}

TEST(Step, StepsBehindOneThatIsNotFiniteDoNothing) {
  SmallRun run(resolved(small()));
  run.step();
  const std::vector<double> before = run.values();
  const double bias = std::exchange(run.bias(), std::numeric_limits<double>::infinity());
  run.start_step();
  run.bias() = bias;
  run.start_step();  // on good numbers
  EXPECT_EQ(run.values(), before);
  EXPECT_THROW(run.finish_step(), Error);
  EXPECT_EQ(run.steps(), 1);
  EXPECT_THROW(run.finish_step(), Error) << "the step behind it is forgotten";
  run.step();
  EXPECT_NE(run.values(), before);
}

TEST(Step, WithoutMixupNothingIsKeptForIt) {
  SmallRun run(resolved(small()));
  EXPECT_FALSE(run.acts().unmixed_images);
  EXPECT_FALSE(run.acts().mix_weights);
}

}  // namespace
}  // namespace vitrail
