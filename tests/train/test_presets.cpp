// The paper's models, cell by cell: parameters, FLOPs, blocks and recipes, from the presets and without allocating.
// Numbers: "Scaling Vision with Sparse Mixture of Experts", tables of models, and the published sizes of ViT.

#include <cmath>
#include <optional>

#include <gtest/gtest.h>

#include "model/params.hpp"
#include "model/planner.hpp"
#include "train/presets.hpp"
#include "train/schedule.hpp"

namespace vitrail {
namespace {

RunConfig resolved(const std::string& name) {
  RunConfig config = preset(name);
  resolve(config);
  return config;
}

ModelPlan plan_of(const std::string& name) { return plan_model(resolved(name).model); }

double rounded(double value, double unit) { return std::round(value / unit); }

/// `printed` has been rounded to a whole multiple of `unit`.
void expect_printed(double value, double printed, double unit, const std::string& what) {
  EXPECT_EQ(rounded(value, unit), rounded(printed, unit)) << what << " is " << value << ", printed " << printed;
}

TEST(Presets, ResolveAndHaveALayout) {
  for (const std::string& name : preset_names()) {
    const RunConfig config = resolved(name);
    EXPECT_EQ(make_layout(config, 0, 1).passes(), 1) << name;
    EXPECT_GT(total_steps(config, preset_examples(name)), 0) << name;
    (void)make_schedule(config, total_steps(config, preset_examples(name)));
    (void)make_loss(config);
    (void)make_optimizer(config);
  }
}

TEST(Presets, OfAMisspeltNameAreRefusedWithTheNearest) {
  for (const auto& [wrong, near] : {std::pair{"fmnits", "'fmnist'"}, {"v-moe-l16-evry2", "'v-moe-l16-every2'"}}) {
    try {
      (void)preset(wrong);
      ADD_FAILURE() << wrong << " was accepted";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::usage);
      EXPECT_NE(std::string(error.what()).find(near), std::string::npos) << error.what();
    }
  }
}

// --- the tables ------------------------------------------------------------------------------------------------------

struct PaperRow {
  const char* preset;
  double million_parameters;  // one decimal is printed
  double gflops;              // of one image's forward pass; two decimals
};
constexpr PaperRow kPaper[] = {
    {"vit-s32", 36.5, 2.73},
    {"v-moe-s32-last2", 166.7, 3.20},
    {"v-moe-s32-every2", 296.9, 3.66},
    {"vit-b32", 102.1, 8.85},
    {"v-moe-b32-last2", 395.0, 9.89},
    {"v-moe-b32-every2", 980.6, 11.98},
    {"vit-b16", 100.5, 35.16},
    {"v-moe-b16-last2", 393.3, 39.26},
    {"v-moe-b16-every2", 979.0, 47.48},
    {"vit-l32", 325.3, 30.79},
    {"v-moe-l32-last2", 845.8, 32.64},
    {"v-moe-l32-every2", 3448.2, 41.90},
    {"vit-l16", 323.1, 123.15},
    {"v-moe-l16-last2", 843.6, 130.44},
    {"v-moe-l16-every2", 3446.0, 166.93},
    {"vit-h14", 655.8, 334.64},
    {"v-moe-h14-last2", 1469.0, 349.50},
    {"v-moe-h14-last5", 2688.6, 371.80},
    {"v-moe-h14-every2", 7160.8, 453.55},
    {"vit-15b", 1289.5, 658.66},
    {"v-moe-15b", 14705.1, 903.77},
};

TEST(PaperModels, HaveThePrintedParametersAndFlops) {
  for (const PaperRow& row : kPaper) {
    const ModelPlan plan = plan_of(row.preset);
    expect_printed(static_cast<double>(plan.parameters) / 1e6, row.million_parameters, 0.1, row.preset);
    expect_printed(plan.forward_flops / 1e9, row.gflops, 0.01, row.preset);
  }
}

TEST(PaperModels, AreAllInTheTable) {
  std::size_t papers = 0;
  for (const std::string& name : preset_names()) {
    const std::int64_t classes = preset(name).model.classes;
    papers += classes == 18'291 || classes == 29'593 ? 1 : 0;
  }
  EXPECT_EQ(papers, std::size(kPaper));
}

TEST(PaperModels, AreCountedToTheLastParameter) {
  EXPECT_EQ(plan_of("v-moe-b16-every2").parameters, 978'974'835);
  ModelConfig largest = resolved("v-moe-15b").model;
  largest.representation = largest.width;
  expect_printed(static_cast<double>(plan_model(largest).parameters) / 1e6, 14707.1, 0.1, "with pre_logits");
}

TEST(PaperModels, WithoutExpertsAreThePublishedVisionTransformers) {
  const std::pair<const char*, std::int64_t> published[] = {{"vit-b16", 86'567'656},
                                                            {"vit-b32", 88'224'232},
                                                            {"vit-l16", 304'326'632},
                                                            {"vit-l32", 306'535'400},
                                                            {"vit-h14", 632'045'800}};
  for (const auto& [name, parameters] : published) {
    ModelConfig model = resolved(name).model;
    model.classes = 1000;
    model.representation = 0;
    EXPECT_EQ(plan_model(model).parameters, parameters) << name;
  }
}

TEST(ReleasedModels, HaveTheParametersOfTheirCheckpoints) {
  EXPECT_EQ(plan_of("v-moe-s32-last2-ilsvrc2012").parameters, 56'999'400);
  EXPECT_EQ(plan_of("v-moe-s32-last2-ilsvrc2012-finetune").parameters, 56'785'384);
  EXPECT_EQ(plan_of("v-moe-b16-every2-imagenet21k").parameters, 300'974'931);
  EXPECT_EQ(plan_of("v-moe-b16-every2-ilsvrc2012-finetune").parameters, 285'238'504);
}

TEST(PaperModels, HaveTheirSparseBlocksWhereThePaperHasThem) {
  using Blocks = std::vector<std::int64_t>;
  const auto odd = [](std::int64_t first, std::int64_t blocks) {
    Blocks chosen;
    for (std::int64_t block = first; block < blocks; block += 2) chosen.push_back(block);
    return chosen;
  };
  const std::pair<const char*, Blocks> table[] = {
      {"vit-b16", {}},
      {"v-moe-s32-every2", odd(1, 8)},
      {"v-moe-s32-last2", {5, 7}},
      {"v-moe-b32-every2", odd(1, 12)},
      {"v-moe-b16-every2", odd(1, 12)},
      {"v-moe-b32-last2", {9, 11}},
      {"v-moe-b16-last2", {9, 11}},
      {"v-moe-l32-every2", odd(1, 24)},
      {"v-moe-l16-every2", odd(1, 24)},
      {"v-moe-l32-last2", {21, 23}},
      {"v-moe-l16-last2", {21, 23}},
      {"v-moe-h14-every2", odd(1, 32)},
      {"v-moe-h14-last2", {29, 31}},
      {"v-moe-h14-last5", {23, 25, 27, 29, 31}},
      {"v-moe-15b", odd(1, 48)},
      {"v-moe-s32-last2-ilsvrc2012", {5, 7}},
      {"v-moe-b16-every2-cifar10-finetune", odd(1, 12)},
  };
  for (const auto& [name, blocks] : table) EXPECT_EQ(resolved(name).model.moe_blocks, blocks) << name;
}

// --- relative FLOPs and the cost of training -------------------------------------------------------------------------

struct InferenceRow {
  const char* preset;
  std::int64_t selected;
  double factor;
  double percent;  // of ViT-H/14, by the formula
  double unit;     // of its last digit
  double printed;  // in the paper, which counts a little otherwise
};
constexpr InferenceRow kInference[] = {
    {"v-moe-l16-last2", 2, 1.05, 38.98, 0.01, 39.02},  {"v-moe-h14-last5", 2, 1.05, 111.1, 0.1, 111},
    {"v-moe-h14-every2", 2, 1.05, 135.5, 0.1, 136},    {"v-moe-h14-last5", 1, 1.05, 100.53, 0.01, 100.26},
    {"v-moe-h14-last5", 2, 0.5, 100.03, 0.01, 100.02}, {"v-moe-h14-last5", 2, 0.6, 102.04, 0.01, 102.30},
};

TEST(PaperModels, CostTheRelativeFlopsOfInferenceThatArePrinted) {
  const double whole = plan_of("vit-h14").forward_flops;
  for (const InferenceRow& row : kInference) {
    ModelConfig model = resolved(row.preset).model;
    model.router.selected = row.selected;
    model.router.capacity.factor = row.factor;
    const double percent = 100 * plan_model(model).forward_flops / whole;
    expect_printed(percent, row.percent, row.unit, text(row.preset, " with K=", row.selected, ", C=", row.factor));
    EXPECT_NEAR(percent, row.printed, 0.6) << row.preset;
  }
}

struct TrainingRow {
  const char* preset;
  std::optional<double> formula;  // thousand ExaFLOPs, two decimals
  double printed;                 // ExaFLOPs of the paper
};
constexpr TrainingRow kTraining[] = {
    {"vit-s32", {}, 12.27},           {"vit-b32", {}, 56.08},          {"vit-b16", {}, 224.45},
    {"vit-l32", {}, 196.13},          {"vit-l16", {}, 1572.82},        {"vit-h14", 4.29, 4276.42},
    {"v-moe-l16-every2", 2.14, 2170}, {"v-moe-h14-last5", 4.76, 4750}, {"v-moe-h14-every2", 5.81, 5790},
    {"v-moe-15b", {}, 33900},
};

TEST(PaperModels, CostTheExaflopsOfTrainingThatArePrinted) {
  for (const TrainingRow& row : kTraining) {
    const RunConfig run = resolved(row.preset);
    const double images = run.steps > 0 ? static_cast<double>(run.steps * run.batch)
                                        : run.epochs * static_cast<double>(preset_examples(row.preset));
    const double exaflops = training_flops(plan_model(run.model), images) / 1e18;
    if (row.formula) expect_printed(exaflops / 1e3, *row.formula, 0.01, row.preset);
    EXPECT_NEAR(exaflops, row.printed, 0.02 * row.printed) << row.preset;
  }
}

// --- recipes ---------------------------------------------------------------------------------------------------------

TEST(Presets, RoundTheirCapacitiesAsTheirFamilyDoes) {
  const std::pair<const char*, std::int64_t> slots[] = {
      {"v-moe-s32-every2", 26},                        // 26.25 to the nearest
      {"v-moe-b16-every2", 103},                       // 103.425
      {"v-moe-h14-every2", 135},                       // 134.925
      {"v-moe-s32-last2-ilsvrc2012", 108},             // 105, up to a multiple of 4
      {"v-moe-b16-every2-imagenet21k", 416},           // 413.7
      {"v-moe-s32-last2-ilsvrc2012-finetune", 436},    // 435
      {"v-moe-b16-every2-ilsvrc2012-finetune", 1732},  // 1731
      {"v-moe-b16-every2-cifar10-finetune", 196},      // 195
  };
  for (const auto& [name, expected] : slots) EXPECT_EQ(resolved(name).model.slots(), expected) << name;
}

TEST(Presets, RouteGroupsOfEightImagesThatAreOneLeaf) {
  for (const std::string& name : preset_names()) {
    const RunConfig config = resolved(name);
    if (name.starts_with("fmnist")) continue;
    EXPECT_EQ(config.leaf_images, 8) << name;
    EXPECT_EQ(config.model.group_tokens(), 8 * config.model.tokens()) << name;
    EXPECT_EQ(config.model.router.exchange_bf16, !config.model.moe_blocks.empty()) << name;
    EXPECT_TRUE(config.model.experts_alike) << name;
  }
}

struct PretrainingRow {
  const char* preset;
  double learning_rate, epochs, clip_norm;
  std::int64_t batch;
  double head_bias, mixup, expert_dropout;
  const char* decay_pattern;
  std::int64_t steps;
};
constexpr PretrainingRow kPretraining[] = {
    {"vit-s32", 1e-3, 5, 0, 4096, -10, 0, 0, ".*", 372'315},
    {"v-moe-b32-last2", 8e-4, 7, 0, 4096, -10, 0, 0, ".*", 521'241},
    {"v-moe-b16-every2", 8e-4, 7, 0, 4096, -10, 0, 0, ".*", 521'241},
    {"v-moe-l32-last2", 6e-4, 7, 0, 4096, -10, 0, 0, ".*", 521'241},
    {"v-moe-l16-every2", 4e-4, 14, 0, 4096, -10, 0, 0, ".*", 1'042'481},
    {"v-moe-h14-last5", 3e-4, 14, 10, 4096, -10, 0, 0, ".*", 1'042'481},
    {"v-moe-s32-last2-ilsvrc2012", 3e-3, 300, 1, 8192, -6.907755278982137, 0.2, 0.2, "/kernel$", 46'449},
    {"v-moe-b16-every2-imagenet21k", 8e-4, 300, 1, 4096, -10, 0.5, 0, "/kernel$", 1'032'329},
};

TEST(Presets, PretrainAsThePaperAndTheReleasedCheckpointsWere) {
  for (const PretrainingRow& row : kPretraining) {
    SCOPED_TRACE(row.preset);
    const RunConfig c = resolved(row.preset);
    EXPECT_EQ(c.learning_rate, row.learning_rate);
    EXPECT_EQ(c.epochs, row.epochs);
    EXPECT_EQ(c.clip_norm, row.clip_norm);
    EXPECT_EQ(c.batch, row.batch);
    EXPECT_EQ(c.model.head_bias, row.head_bias);
    EXPECT_EQ(c.mixup, row.mixup);
    EXPECT_EQ(c.model.expert_dropout, row.expert_dropout);
    EXPECT_EQ(c.weight_decay_pattern, row.decay_pattern);
    EXPECT_EQ(c.weight_decay, 0.1);
    EXPECT_EQ(c.optimizer, "adamw");
    EXPECT_EQ(c.loss, "sigmoid");
    const std::int64_t steps = total_steps(c, preset_examples(row.preset));
    EXPECT_EQ(steps, row.steps);
    const Schedule schedule = make_schedule(c, steps);
    EXPECT_EQ(learning_rate(schedule, 0), 0);
    EXPECT_EQ(learning_rate(schedule, 10'000), row.learning_rate);
    EXPECT_DOUBLE_EQ(learning_rate(schedule, steps), 1e-5);
    EXPECT_NEAR(learning_rate(schedule, (steps + 10'000) / 2), (row.learning_rate + 1e-5) / 2, 1e-7);
  }
}

TEST(Presets, TrainTheLargestModelByARecipeOfItsOwn) {
  const RunConfig c = resolved("v-moe-15b");
  EXPECT_EQ(c.optimizer, "adafactor");
  EXPECT_TRUE(c.bf16_momentum);
  EXPECT_GT(c.factored_above, c.model.experts);
  EXPECT_EQ(c.schedule, "rsqrt");
  EXPECT_EQ(c.model.representation, 0);
  const Schedule schedule = make_schedule(c, c.steps);
  EXPECT_EQ(learning_rate(schedule, 10'000), 8e-4);
  EXPECT_NEAR(learning_rate(schedule, c.steps), 0, 1e-12);
}

struct FinetuningRow {
  const char* preset;
  std::int64_t pixels, classes, steps, warmup;
  double learning_rate;
};
constexpr FinetuningRow kFinetuning[] = {
    {"v-moe-s32-last2-ilsvrc2012-finetune", 384, 1000, 10'000, 500, 0.003},
    {"v-moe-b16-every2-ilsvrc2012-finetune", 384, 1000, 10'000, 500, 0.003},
    {"v-moe-b16-every2-cifar10-finetune", 128, 10, 1000, 100, 0.0015},
};

TEST(Presets, FinetuneAsTheReleasedConfigurationsDo) {
  for (const FinetuningRow& row : kFinetuning) {
    SCOPED_TRACE(row.preset);
    const RunConfig c = resolved(row.preset);
    EXPECT_EQ(c.model.image_height, row.pixels);
    EXPECT_EQ(c.model.image_width, row.pixels);
    EXPECT_EQ(c.model.classes, row.classes);
    EXPECT_EQ(c.model.representation, 0);
    EXPECT_EQ(c.model.head_bias, -std::log(static_cast<double>(row.classes)));
    EXPECT_EQ(c.model.expert_dropout, 0);
    EXPECT_EQ(c.model.router.capacity.factor, 1.5);
    EXPECT_EQ(c.model.router.noise_std, 1);
    EXPECT_EQ(c.loss, "softmax");
    EXPECT_EQ(c.optimizer, "sgd");
    EXPECT_EQ(c.momentum, 0.9);
    EXPECT_EQ(c.weight_decay, 0);
    EXPECT_EQ(c.clip_norm, 10);
    EXPECT_EQ(c.mixup, 0);
    EXPECT_EQ(c.batch, 1024);
    EXPECT_EQ(c.epochs, 0);
    EXPECT_EQ(c.schedule, "cosine");
    const Schedule schedule = make_schedule(c, total_steps(c, preset_examples(row.preset)));
    EXPECT_EQ(schedule.total_steps, row.steps);
    EXPECT_EQ(learning_rate(schedule, row.warmup), row.learning_rate);
    EXPECT_LT(learning_rate(schedule, row.warmup - 1), row.learning_rate);
    EXPECT_DOUBLE_EQ(learning_rate(schedule, row.steps), 1e-5);
  }
}

}  // namespace
}  // namespace vitrail
