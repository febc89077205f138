#include <gtest/gtest.h>

#include "apps/eval_sweep.hpp"
#include "apps/run_options.hpp"

namespace vitrail {
namespace {

/// V-MoE-H/14 Last-5 of the paper: K=2, 32 experts, 18,291 classes.
ModelConfig huge() {
  ModelConfig model;
  model.patch_rows = model.patch_columns = 14;
  model.width = model.representation = 1280;
  model.mlp_width = 5120;
  model.heads = 16;
  model.blocks = 32;
  model.classes = 18291;
  model.experts = 32;
  model.moe_blocks = moe_blocks_by_name("last-5", 32);
  model.router.capacity.rounding = Capacity::Rounding::nearest;
  model.router.capacity.multiple_of = 0;
  return model;
}

TEST(Sweep, RelativeCostIsThatOfThePaper) {
  // By the formula; table 10 of the paper has 111, 100.26, 100.02 and 102.30 %.
  const struct {
    std::int64_t selected;
    double factor;
    double relative;
  } rows[] = {{2, 1.05, 1.111}, {1, 1.05, 1.0053}, {2, 0.5, 1.0003}, {2, 0.6, 1.0204}};
  for (const auto& row : rows) {
    ModelConfig model = huge();
    model.router.selected = row.selected;
    model.router.capacity.factor = row.factor;
    const double found = forward_flops_with_slots(model) / forward_flops_of_dense_twin(model);
    EXPECT_NEAR(found, row.relative, 1e-3) << row.selected << " " << row.factor;
  }
}

TEST(Sweep, ExpertsThatWereGivenMoreSlotsByRoundingCostMore) {
  ModelConfig model = huge();
  model.router.capacity.factor = 0.05;
  const double exact = forward_flops_with_slots(model);  // 6 slots
  model.router.capacity.multiple_of = 12;
  const double rounded = forward_flops_with_slots(model);
  const double slot = 4.0 * 1280 * 5120 * 5 * 32 / 8;  // of one group of 8 images, in five blocks
  EXPECT_NEAR(rounded - exact, 6 * slot, 1e-6 * exact);
}

class SweepOptionsTest : public ::testing::Test {
 protected:
  SweepOptionsTest() { config_.model = huge(); }
  /// "" or the problem of the Error.
  std::string problem(std::vector<const char*> words) {
    Options options("vitrail-test", "");
    sweep_ = {};
    add_sweep_options(options, sweep_);
    words.insert(words.begin(), "vitrail-test");
    try {
      (void)options.parse(static_cast<int>(words.size()), words.data());
      options.apply();
      resolve(sweep_, options, config_);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::usage);
      return error.fault().problem;
    }
    return "";
  }
  RunConfig config_;
  SweepOptions sweep_;
};

TEST_F(SweepOptionsTest, FilesAreNamedAfterTheRunUnlessTheyAreNamed) {
  EXPECT_EQ(problem({"--sweep"}), "");
  EXPECT_EQ(sweep_.csv, "");
  config_.run_dir = "runs/a";
  EXPECT_EQ(problem({"--sweep", "--sweep-svg", "b.svg"}), "");
  EXPECT_EQ(sweep_.csv, "runs/a/sweep.csv");
  EXPECT_EQ(sweep_.svg, "b.svg");
  EXPECT_EQ(problem({}), "");
  EXPECT_EQ(sweep_.csv, "");
}

TEST_F(SweepOptionsTest, CapacitiesAreSorted) {
  EXPECT_EQ(problem({"--sweep", "--sweep-capacities", "2", "0.5", "1"}), "");
  EXPECT_EQ(sweep_.capacities, (std::vector<double>{0.5, 1, 2}));
}

TEST_F(SweepOptionsTest, RefusesWhatCannotBeEvaluated) {
  EXPECT_EQ(problem({"--sweep", "--sweep-capacities", "0"}), "a capacity factor of 0 in --sweep");
  EXPECT_EQ(problem({"--capacity-table", "0.5", "nan"}), "a capacity factor of nan in --capacity-table");
  EXPECT_EQ(problem({"--sweep", "--sweep-selected", "33"}), "--sweep-selected 33");
  EXPECT_EQ(problem({"--sweep", "--sweep-orders", "vanila"}), "'vanila' is not a value of --sweep-orders");
  EXPECT_EQ(problem({"--sweep-csv", "a.csv"}), "--sweep-csv without --sweep");
  EXPECT_EQ(problem({"--sweep", "--sweep-csv", "no/such/folder/a.csv"}), "'no/such/folder/a.csv' cannot be written");
  config_.model.router.kind = RouterKind::experts_choice;
  EXPECT_EQ(problem({"--sweep"}), "");
  EXPECT_EQ(problem({"--capacity-table", "1"}), "--capacity-table with --router experts-choice");
  config_.model.router.kind = RouterKind::soft;
  EXPECT_EQ(problem({"--sweep"}), "--sweep of a Soft MoE");
  EXPECT_EQ(problem({"--capacity-table", "1"}), "--capacity-table of a Soft MoE");
  config_.model.moe_blocks.clear();
  EXPECT_EQ(problem({"--sweep"}), "--sweep of a dense model");
  EXPECT_EQ(problem({"--capacity-table", "1"}), "--capacity-table of a dense model");
}

}  // namespace
}  // namespace vitrail
