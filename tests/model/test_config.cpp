// Capacities, block lists and sizes. The paper's models, cell by cell, are in tests/train/test_presets.cpp, FLOPs in
// test_planner.cpp. [V-MoE, V-MoE tests]

#include <gtest/gtest.h>

#include "model/config.hpp"

namespace vitrail {
namespace {

Capacity factor_of(double factor) {
  Capacity capacity;
  capacity.factor = factor;
  return capacity;
}

Capacity plain_rounding(double factor) {
  Capacity capacity = factor_of(factor);
  capacity.rounding = Capacity::Rounding::nearest;
  capacity.multiple_of = 0;
  return capacity;
}

// --- capacity --------------------------------------------------------------------------------------------------------

struct CapacityRow {
  std::int64_t tokens;
  std::int64_t e8[3], e8_plain[3], e32[3], e32_plain[3];  // at factors 1.05, 1.5 and 4
};

constexpr CapacityRow kCapacities[] = {
    {400, {108, 152, 400}, {105, 150, 400}, {28, 40, 100}, {26, 38, 100}},
    {1576, {416, 592, 1576}, {414, 591, 1576}, {104, 148, 396}, {103, 148, 394}},
    {2056, {540, 772, 2056}, {540, 771, 2056}, {136, 196, 516}, {135, 193, 514}},
    {1160, {308, 436, 1160}, {304, 435, 1160}, {80, 112, 292}, {76, 109, 290}},
    {4616, {1212, 1732, 4616}, {1212, 1731, 4616}, {304, 436, 1156}, {303, 433, 1154}},
    {520, {140, 196, 520}, {136, 195, 520}, {36, 52, 132}, {34, 49, 130}},
};

TEST(Capacity, IsThatOfTheSpecificationsTable) {
  constexpr double kFactors[] = {1.05, 1.5, 4.0};
  for (const CapacityRow& row : kCapacities) {
    for (std::size_t i = 0; i < 3; ++i) {
      EXPECT_EQ(slots_per_expert(factor_of(kFactors[i]), row.tokens, 2, 8), row.e8[i]) << row.tokens;
      EXPECT_EQ(slots_per_expert(plain_rounding(kFactors[i]), row.tokens, 2, 8), row.e8_plain[i]) << row.tokens;
      EXPECT_EQ(slots_per_expert(factor_of(kFactors[i]), row.tokens, 2, 32), row.e32[i]) << row.tokens;
      EXPECT_EQ(slots_per_expert(plain_rounding(kFactors[i]), row.tokens, 2, 32), row.e32_plain[i]) << row.tokens;
    }
  }
}

TEST(Capacity, IsComputedInDoubleAndNotInRationals) {
  // 800 * 2 * 1.1 / 8 = 220 exactly; in double it lies a hair above, so that the ceiling is 221 and then 224.
  EXPECT_EQ(slots_per_expert(factor_of(1.1), 800, 2, 8), 224);
}

TEST(Capacity, IsComputedFromLeftToRight) {
  // In another order these products land on the other side of a whole number.
  const auto ceiling = [](std::int64_t tokens, std::int64_t selected, double factor, std::int64_t experts) {
    Capacity capacity = factor_of(factor);
    capacity.multiple_of = 0;
    return slots_per_expert(capacity, tokens, selected, experts);
  };
  EXPECT_EQ(ceiling(400, 1, 1.1, 5), 89);  // (400 / 5) * 1.1 is 88
  EXPECT_EQ(ceiling(50, 2, 1.05, 3), 35);  // (100 / 3) * 1.05 is above 35
  EXPECT_EQ(ceiling(50, 3, 1.1, 3), 55);   // (50 * 1.1) * 3 / 3 is above 55
}

TEST(Capacity, GoesUpToAMultipleOfFourUnlessToldOtherwise) {
  EXPECT_EQ(slots_per_expert(factor_of(1.0), 32, 2, 32), 4);
  Capacity unrounded = factor_of(1.0);
  unrounded.multiple_of = 0;
  EXPECT_EQ(slots_per_expert(unrounded, 32, 2, 32), 2);
}

TEST(Capacity, RoundsHalvesToEvenWhenItRoundsToNearest) {
  EXPECT_EQ(slots_per_expert(plain_rounding(0.5), 10, 1, 2), 2);  // 2.5
  EXPECT_EQ(slots_per_expert(plain_rounding(0.5), 14, 1, 2), 4);  // 3.5
}

TEST(Capacity, OfJanuary2022WasTheFloor) {
  Capacity capacity = plain_rounding(1.5);
  capacity.rounding = Capacity::Rounding::floor;
  EXPECT_EQ(slots_per_expert(capacity, 2308, 2, 8), 865);
  EXPECT_EQ(slots_per_expert(capacity, 520, 2, 8), 195);
}

TEST(Capacity, AsANumberOfSlotsIsTakenAsItIs) {
  Capacity capacity;
  capacity.factor.reset();
  capacity.slots = 7;
  EXPECT_EQ(slots_per_expert(capacity, 400, 2, 8), 7);
}

template <class Action>
void expect_usage_error(const Action& action, const std::string& part) {
  try {
    action();
    ADD_FAILURE() << "accepted; expected an error with '" << part << "'";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::usage);
    EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
  }
}

TEST(Capacity, WithoutASlotIsRefused) {
  expect_usage_error([] { (void)slots_per_expert(factor_of(-1), 128, 2, 32); }, "capacity factor -1");
  expect_usage_error([] { (void)slots_per_expert(plain_rounding(0.1), 17, 1, 5); }, "raise the factor");
}

TEST(Capacity, GivenTwiceOrNotAtAllIsRefused) {
  Capacity both;
  both.slots = 4;
  expect_usage_error([&] { (void)slots_per_expert(both, 128, 2, 32); }, "once");
  Capacity neither;
  neither.factor.reset();
  expect_usage_error([&] { (void)slots_per_expert(neither, 128, 2, 32); }, "once");
}

// --- which blocks ----------------------------------------------------------------------------------------------------

using Blocks = std::vector<std::int64_t>;

TEST(MoeBlocks, AreThoseOfThePaper) {
  EXPECT_EQ(moe_blocks_by_name("every-2", 8), (Blocks{1, 3, 5, 7}));
  EXPECT_EQ(moe_blocks_by_name("every-2", 12), (Blocks{1, 3, 5, 7, 9, 11}));
  EXPECT_EQ(moe_blocks_by_name("last-2", 8), (Blocks{5, 7}));
  EXPECT_EQ(moe_blocks_by_name("last-2", 12), (Blocks{9, 11}));
  EXPECT_EQ(moe_blocks_by_name("last-2", 24), (Blocks{21, 23}));
  EXPECT_EQ(moe_blocks_by_name("last-2", 32), (Blocks{29, 31}));
  EXPECT_EQ(moe_blocks_by_name("last-5", 32), (Blocks{23, 25, 27, 29, 31}));
  EXPECT_EQ(moe_blocks_by_name("every-2", 48).size(), 24U);
  EXPECT_EQ(moe_blocks_by_name("every-3", 9), (Blocks{2, 5, 8}));
  EXPECT_EQ(moe_blocks_by_name("last-9", 4), (Blocks{1, 3}));
  EXPECT_EQ(moe_blocks_by_name("none", 8), Blocks{});
}

TEST(MoeBlocks, MayBeGivenByNumber) {
  EXPECT_EQ(moe_blocks_by_name("6-11", 12), (Blocks{6, 7, 8, 9, 10, 11}));
  EXPECT_EQ(moe_blocks_by_name("1,3,10-11", 12), (Blocks{1, 3, 10, 11}));
  EXPECT_EQ(moe_blocks_by_name("0", 12), Blocks{0});
}

TEST(MoeBlocks, OfOtherNamesAreRefused) {
  for (const char* name : {"", "every", "every-", "every-0", "last-x", "some-2", "last-2x", "1,", ",1", "3,1", "1,1",
                           "5-3", "-2", "1-", "123456"}) {
    expect_usage_error([&] { (void)moe_blocks_by_name(name, 8); }, "every-N and last-N");
  }
}

// --- sizes -----------------------------------------------------------------------------------------------------------

TEST(Tokens, AreWholePatchesAndTheClassToken) {
  ModelConfig c;
  c.patch_rows = c.patch_columns = 14;
  EXPECT_EQ(c.tokens(), 257);
  c.image_height = c.image_width = 384;  // no multiple of 14: the border is left out
  EXPECT_EQ(c.tokens(), 730);
  c.patch_rows = 96;
  c.patch_columns = 64;
  EXPECT_EQ(c.tokens(), 4 * 6 + 1);
}

TEST(ModelConfig, RefusesWhatCannotBe) {
  const auto refuses = [](const auto& change, const std::string& part) {
    ModelConfig c;
    c.moe_blocks = {5, 7};
    c.check();
    change(c);
    expect_usage_error([&] { c.check(); }, part);
  };
  refuses([](ModelConfig& c) { c.image_height = 31; }, "holds no patch");
  refuses([](ModelConfig& c) { c.heads = 7; }, "not divisible by 7 heads");
  refuses([](ModelConfig& c) { c.moe_blocks = {8}; }, "MoE block 8");
  refuses([](ModelConfig& c) { c.moe_blocks = {3, 3}; }, "ascend");
  refuses([](ModelConfig& c) { c.router.selected = 9; }, "9 experts per token");
  refuses([](ModelConfig& c) { c.router.selected = 0; }, "0 experts per token");
  refuses([](ModelConfig& c) { c.router.noise_std = -1; }, "noise_std");
  refuses([](ModelConfig& c) { c.router.capacity.factor = 0; }, "capacity factor");
  refuses([](ModelConfig& c) { c.classes = 0; }, "classes");
  refuses([](ModelConfig& c) { c.dropout = 1; }, "--dropout 1");
  refuses([](ModelConfig& c) { c.attention_dropout = -0.1; }, "--attention-dropout");
  refuses([](ModelConfig& c) { c.expert_dropout = std::nan(""); }, "--expert-dropout");
  refuses([](ModelConfig& c) { c.stochastic_depth = 1.5; }, "--stochastic-depth");
  refuses([](ModelConfig& c) { c.router.z_weight = -1; }, "--z-weight");
  refuses(
      [](ModelConfig& c) {
        c.router.random_blocks = {5, 6};
      },
      "--random-blocks 6: this block has no router (the MoE blocks are 5 and 7). Did you mean 5 or 7?");
  refuses([](ModelConfig& c) { c.router.random_blocks = {-1}; }, "Did you mean 5?");
  refuses([](ModelConfig& c) { c.router.random_blocks = {99}; }, "Did you mean 7?");
  refuses(
      [](ModelConfig& c) {
        c.positions = PositionEmbedding::sincos2d;
        c.width = 510;
        c.heads = 1;
      },
      "sincos2d");
  refuses(
      [](ModelConfig& c) {
        c.router.kind = RouterKind::experts_choice;
        c.router.capacity.factor = 33;
      },
      "cannot choose a token twice");
  refuses(
      [](ModelConfig& c) {
        c.router.kind = RouterKind::experts_choice;
        c.router.order = TokenOrder::prioritized;
      },
      "--token-order");
  refuses(
      [](ModelConfig& c) {
        c.router.kind = RouterKind::soft;
        c.router.normalize_gates = true;
      },
      "--router soft");
}

TEST(Slots, OfExpertsChoiceAndSoftMoeKnowNoK) {
  ModelConfig c;
  c.experts = 32;
  c.moe_blocks = {5, 7};
  c.router.capacity.factor = 1.0;
  EXPECT_EQ(c.slots(), 28) << "8 images of 50 tokens, K = 2 choices, 32 experts: 25, up to a multiple of 4";
  EXPECT_EQ(c.choices(), 2);
  c.router.kind = RouterKind::experts_choice;
  EXPECT_EQ(c.slots(), 16) << "12.5 up";
  EXPECT_EQ(c.choices(), 32);
  c.router.kind = RouterKind::soft;
  EXPECT_EQ(c.slots(), 12) << "half to even, no multiple";
  EXPECT_EQ(c.choices(), 1);
}

}  // namespace
}  // namespace vitrail
