#include <limits>

#include <gtest/gtest.h>

#include "tests/errors.hpp"
#include "tests/train/small_run.hpp"

namespace vitrail::testing {
namespace {

/// The host as a device that notices some time later what its work did: at a wait, when it `fails`.
class LateDevice final : public Device {
 public:
  [[nodiscard]] DeviceKind kind() const noexcept override { return host_->kind(); }
  [[nodiscard]] std::string description() const override { return host_->description(); }
  void* allocate(std::int64_t bytes) override { return host_->allocate(bytes); }
  void release(void* memory, std::int64_t bytes) noexcept override { host_->release(memory, bytes); }
  void* allocate_host(std::int64_t bytes) override { return host_->allocate_host(bytes); }
  void release_host(void* memory, std::int64_t bytes) noexcept override { host_->release_host(memory, bytes); }
  void copy(ConstTensor from, Tensor to) override { host_->copy(from, to); }
  void zero(Tensor tensor) override { host_->zero(tensor); }
  [[nodiscard]] Place place() override { return host_->place(); }
  void wait(Place place) override {
    if (fails) fail(ExitCode::other, {"a kernel failed", "some time ago", "", true});
    host_->wait(place);
  }
  void upload(ConstTensor from, Tensor to, Place free) override { host_->upload(from, to, free); }
  void download(ConstTensor from, Tensor to) override { host_->download(from, to); }
  void submit(const std::string& name, const std::function<void()>& work) override { host_->submit(name, work); }
  [[nodiscard]] bool asynchronous() const noexcept override { return host_->asynchronous(); }

  bool fails = false;

 private:
  std::unique_ptr<Device> host_ = make_cpu_device();
};

std::unique_ptr<Ops> fast_ops(Device&) { return make_cpu_ops(1); }

TEST(Step, SmoothsLabelsTowardsAllClasses) {
  RunConfig config = small_run_config();
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
  SmallRun run(resolved(small_run_config()), 2);
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
  RunConfig config = small_run_config();
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
    RunConfig config = small_run_config();
    config.mixup = 0.2;
    config.mixup_draw = draw;
    config.label_smoothing = 0.1;
    std::vector<double> losses;
    for (const std::int64_t leaves : {1, 2, 4}) {
      config.leaves_per_pass = leaves;
      SmallRun run(resolved(config), 1, make_cpu_device(), [](Device&) { return make_cpu_ops(1); });
      run.step();
      losses.push_back(run.step().metrics.main_loss);
    }
    EXPECT_EQ(losses, std::vector<double>(3, losses[0])) << draw;
  }
}

TEST(Step, IsTheSameBitsWhenBlocksComputeAgainWhatTheyDidNotKeep) {
  struct Case {
    Precision precision;
    std::int64_t mlp_width;
    int steps;
  };
  // The wider one: hidden layers that the cpu back end stores in strips.
  for (const auto& of : {Case{Precision::f32, 32, 3}, Case{Precision::bf16, 32, 3}, Case{Precision::f32, 4160, 1},
                         Case{Precision::bf16, 4160, 1}}) {
    RunConfig config = small_run_config();
    config.model.mlp_width = of.mlp_width;
    config.model.blocks = 5;
    config.moe = "1,2,4";
    config.model.dropout = config.model.expert_dropout = 0.1;
    config.leaves_per_pass = 2;
    std::vector<std::vector<double>> values, losses;
    for (const std::string& recompute : recompute_names()) {
      config.recompute = recompute;
      SmallRun run(resolved(config), 1, make_cpu_device(), [&](Device&) { return make_cpu_ops(2, of.precision); });
      losses.emplace_back();
      for (int step = 0; step < of.steps; ++step) {
        const StepReport report = run.step();
        const Metrics& m = report.metrics;
        for (const double x : {m.main_loss, m.total_loss(), m.drop_rate(), m.load_imbalance(), report.gradient_norm})
          losses.back().push_back(x);
      }
      values.push_back(run.values());
    }
    for (std::size_t i = 1; i < values.size(); ++i) {
      EXPECT_EQ(losses[i], losses[0]) << recompute_names()[i];
      EXPECT_TRUE(values[i] == values[0])
          << recompute_names()[i] << (of.precision == Precision::bf16 ? ", bf16 products" : "") << ", " << of.mlp_width;
    }
  }
}

/// MLPs that the cpu back end updates early, one of them of experts.
RunConfig early_config() {
  RunConfig config = small_run_config();
  config.model.mlp_width = 4160;
  config.leaves_per_pass = 4;
  config.clip_norm = 0;
  config.average_decay = 0.9;
  config.early_update = true;
  return config;
}

TEST(Step, IsTheSameBitsWhenWeightsAreUpdatedEarly) {
  for (const Precision precision : {Precision::f32, Precision::bf16}) {
    std::vector<std::vector<double>> values, losses;
    for (const bool early : {false, true}) {
      RunConfig config = early_config();
      config.early_update = early;
      SmallRun run(resolved(config), 1, make_cpu_device(), [&](Device&) { return make_cpu_ops(2, precision); });
      losses.emplace_back();
      for (int step = 0; step < 3; ++step) losses.back().push_back(run.step().metrics.total_loss());
      values.push_back(run.values());
    }
    EXPECT_EQ(losses[0], losses[1]);
    EXPECT_TRUE(values[0] == values[1]);
  }
}

TEST(Step, ALossThatIsNotFiniteLeavesWeightsThatAreUpdatedEarlyAsTheyWere) {
  SmallRun run(resolved(early_config()), 1, make_cpu_device(), fast_ops);
  run.step();
  const std::vector<double> before = run.values();
  const double bias = run.exchange_bias(std::numeric_limits<double>::infinity());
  const Error error = error_of([&] { run.step(); });
  EXPECT_EQ(error.code(), ExitCode::numbers);
  EXPECT_NE(std::string(error.what()).find("the parameters of the step before are untouched"), std::string::npos);
  run.exchange_bias(bias);
  EXPECT_TRUE(run.values() == before);
  run.step();
  EXPECT_FALSE(run.values() == before) << "later steps go on from there";
}

TEST(Step, EarlyUpdatesAreRefusedWhereGradientsAreNotCompleteOrMustBeKnownBefore) {
  const auto message = [](const RunConfig& config) {
    const Error error = error_of([&] { SmallRun run(resolved(config), 1, make_cpu_device(), fast_ops); });
    EXPECT_EQ(error.code(), ExitCode::usage);
    return std::string(error.what());
  };
  RunConfig config = early_config();
  config.leaves_per_pass = 1;
  EXPECT_NE(message(config).find("no weight can be updated early"), std::string::npos) << "four passes";
  config = early_config();
  config.model.mlp_width = 64;
  EXPECT_NE(message(config).find("no weight can be updated early"), std::string::npos) << "small weights";
  config = early_config();
  config.clip_norm = 1;
  EXPECT_NE(message(config).find("without clipping"), std::string::npos);
  config = early_config();
  config.optimizer = "sgd";
  EXPECT_NE(message(config).find("--optimizer adamw"), std::string::npos);
  config = early_config();
  config.bf16_momentum = true;
  EXPECT_NE(message(config).find("--bf16-momentum"), std::string::npos);
}

TEST(Step, TwoStepsInFlightAreTheSameBitsAsOneAfterAnother) {
  for (const std::int64_t leaves : {1, 4}) {
    RunConfig config = small_run_config();
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
  SmallRun run(resolved(small_run_config()));
  EXPECT_THROW(run.finish_step(), Error);
  run.start_step();
  run.start_step();
  EXPECT_THROW(run.start_step(), Error);
}

TEST(Step, OneThatIsNotFiniteLeavesParametersAndStateAsTheyWere) {
  for (const std::int64_t leaves : {1, 4}) {
    RunConfig config = small_run_config();
    config.leaves_per_pass = leaves;
    config.average_decay = 0.9;
    SmallRun never(resolved(config)), run(resolved(config));
    for (SmallRun* one : {&never, &run}) one->step();
    const std::vector<double> before = run.values();
    const double bias = run.exchange_bias(std::numeric_limits<double>::infinity());
    try {
      run.step();
      ADD_FAILURE() << "no error";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::numbers);
      const std::string text = error.what();
      EXPECT_NE(text.find("step 2: loss"), std::string::npos) << text;
      EXPECT_NE(text.find("stands in the embedding on rank 0"), std::string::npos) << text;
    }
    run.exchange_bias(bias);
    EXPECT_EQ(run.values(), before);
    EXPECT_EQ(run.steps(), 1);
    EXPECT_EQ(run.step().metrics.main_loss, never.step().metrics.main_loss);
    EXPECT_EQ(run.values(), never.values()) << "later steps go on from there";
  }
}

TEST(Step, StepsBehindOneThatIsNotFiniteDoNothing) {
  SmallRun run(resolved(small_run_config()));
  run.step();
  const std::vector<double> before = run.values();
  const double bias = run.exchange_bias(std::numeric_limits<double>::infinity());
  run.start_step();
  run.exchange_bias(bias);
  run.start_step();  // on good numbers
  EXPECT_EQ(run.values(), before);
  EXPECT_THROW(run.finish_step(), Error);
  EXPECT_EQ(run.steps(), 1);
  EXPECT_THROW(run.finish_step(), Error) << "the step behind it is forgotten";
  run.step();
  EXPECT_NE(run.values(), before);
}

TEST(Step, AnErrorNamesTheStepUnlessItIsAboutTheData) {
  SmallRun run(resolved(small_run_config()), 1, make_cpu_device(), fast_ops);
  EXPECT_EQ(run.activity().look().step, 0) << "after the warm-up";
  run.step();
  for (const ExitCode code : {ExitCode::other, ExitCode::usage}) {
    run.before_data = [code] { fail(code, {"no images", "", ""}); };
    EXPECT_STREQ(error_of([&] { run.start_step(); }).what(), "no images in the wait for data, step 2");
  }
  run.before_data = [] { fail(ExitCode::data, {"no images", "", ""}); };
  EXPECT_STREQ(error_of([&] { run.start_step(); }).what(), "no images in the wait for data");
}

TEST(Step, AnErrorThatIsNoticedLateNamesTheStepsThatWereInTheQueue) {
  auto made = std::make_unique<LateDevice>();
  LateDevice& device = *made;
  SmallRun run(resolved(small_run_config()), 1, std::move(made), fast_ops);
  run.step();
  run.start_step();
  device.fails = true;
  EXPECT_STREQ(error_of([&] { run.finish_step(); }).what(),
               "a kernel failed, noticed in the wait for the device, step 2 (some time ago)");
  device.fails = false;
  run.start_step();
  device.fails = true;
  EXPECT_STREQ(error_of([&] { run.finish_step(); }).what(),
               "a kernel failed, noticed in the wait for the device, step 2, while steps 2 and 3 were in the queue "
               "(some time ago)");
}

TEST(Step, MarksStepsAndLayers) {
  SmallRun run(resolved(small_run_config()), 1, make_cpu_device(), fast_ops);
  run.start_step();
  EXPECT_EQ(run.activity().look().step, 1);
  run.start_step();
  EXPECT_EQ(run.activity().look().step, 2);
  run.finish_step();
  EXPECT_EQ(run.activity().look().step, 1) << "the one that was waited for";
  EXPECT_EQ(run.activity().look().layer, Activity::kNoLayer);
}

TEST(Step, WithoutMixupNothingIsKeptForIt) {
  SmallRun run(resolved(small_run_config()));
  EXPECT_FALSE(run.acts().unmixed_images);
  EXPECT_FALSE(run.acts().mix_weights);
}

}  // namespace
}  // namespace vitrail::testing
