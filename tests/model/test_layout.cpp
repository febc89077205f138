// How a batch is cut, and which cuts are refused.

#include <gtest/gtest.h>

#include "model/layout.hpp"

namespace vitrail {
namespace {

ModelConfig model() {
  ModelConfig c;  // S/32: 50 tokens, groups of 8 images
  c.moe_blocks = {5, 7};
  return c;
}

/// 64 images in 8 leaves of 8, on 4 ranks with EP = 2.
Layout good() {
  return {.batch = 64, .leaf_images = 8, .leaves_per_pass = 1, .ranks = 4, .rank = 0, .expert_parallel = 2};
}

template <class Change>
std::string refusal(const Change& change) {
  Layout layout = good();
  change(layout);
  try {
    layout.check(model());
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::usage);
    EXPECT_FALSE(error.fault().suggestion.empty()) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "accepted";
  return "";
}

void expect_part(const std::string& whole, const std::string& part) {
  EXPECT_NE(whole.find(part), std::string::npos) << whole;
}

TEST(Layout, AcceptsAWholeSubtreePerRankAndExpertGroup) {
  good().check(model());
  Layout accumulating = good();
  accumulating.ranks = 2;
  accumulating.leaves_per_pass = 2;
  accumulating.check(model());
  EXPECT_EQ(accumulating.passes(), 2);
}

TEST(Layout, RefusesABatchThatLeavesDoNotDivide) {
  const std::string said = refusal([](Layout& l) { l.batch = 60; });
  expect_part(said, "--batch 64");
  expect_part(said, "--leaf-images 4");
}

TEST(Layout, RefusesALeafThatCutsAGroup) {
  expect_part(refusal([](Layout& l) { l.leaf_images = 4; }), "multiple of 8");
}

TEST(Layout, RefusesExpertsThatCannotBeShared) {
  expect_part(refusal([](Layout& l) {
                l.ranks = 6;
                l.expert_parallel = 6;
                l.batch = 8 * 6;
              }),
              "--expert-parallel 2");
}

TEST(Layout, RefusesAWorldThatIsNotWholeExpertGroups) {
  expect_part(refusal([](Layout& l) { l.ranks = 3; }), "3 ranks are not divisible by --expert-parallel 2");
}

TEST(Layout, RefusesLeavesThatRanksCannotShareEvenly) {
  expect_part(refusal([](Layout& l) { l.batch = 48; }), "batch of 64 images");
}

TEST(Layout, RefusesARunOfLeavesThatIsNoSubtree) {
  // 24 leaves are 3 trees of 8: three leaves per pass, or 16 per expert group, are no subtrees.
  expect_part(refusal([](Layout& l) {
                l.batch = 24 * 8;
                l.leaves_per_pass = 3;
              }),
              "power of two that divides 8");
  expect_part(refusal([](Layout& l) {
                l.batch = 48 * 8;
                l.leaves_per_pass = 12;
              }),
              "not a subtree");
}

TEST(Layout, GivesEveryImageToOneRankAndPassInOrder) {
  Layout layout = good();
  layout.ranks = 2;
  layout.leaves_per_pass = 2;
  std::int64_t next = 0;
  for (std::int64_t pass = 0; pass < layout.passes(); ++pass) {
    for (layout.rank = 0; layout.rank < layout.ranks; ++layout.rank) {
      EXPECT_EQ(layout.first_image(pass), next);
      next += layout.pass_images();
    }
  }
  EXPECT_EQ(next, layout.batch);
}

TEST(Layout, PutsConsecutiveRanksIntoOneExpertGroup) {
  Layout layout = good();
  layout.rank = 3;
  EXPECT_EQ(layout.expert_rank(), 1);
  EXPECT_EQ(layout.replica(), 1);
  EXPECT_EQ(layout.replicas(), 2);
  EXPECT_EQ(layout.groups(model()), 8);
}

}  // namespace
}  // namespace vitrail
