// Calls of the verbs of Soft MoE for test_cpu_ops.cpp; and their bits, which depend on one leaf and group alone.

#include <cmath>

#include <gtest/gtest.h>

#include "tests/ops/leaf_parts.hpp"
#include "tests/ops/soft_router_calls.hpp"
#include "tests/ops/verb_cases.hpp"

namespace vitrail::testing {

namespace {

using Sizes = SoftSizes;
using Options = SoftOptions;
constexpr Sizes kSizes[] = {{1, 1, 1, 1, 1},     {1, 2, 7, 33, 5},    {2, 3, 33, 7, 1},
                            {4, 1, 257, 33, 40}, {2, 0, 5, 8, 3},     {1, 1, 196, 64, 64},
                            {2, 3, 50, 8, 33},   {1, 1, 600, 16, 24}, {1, 1, 70, 256, 128}};

VerbCase soft_router_case(const Sizes& s, const Options& o) {
  return {case_name("soft_router", {s.leaves, s.groups, s.tokens, s.width, s.slots}) + (o.noise ? "_noise" : "") +
              (o.masked ? "_masked" : "") + (o.in_place ? "_in_place" : ""),
          [=](Ops& ops) { return run_soft_router(ops, soft_inputs(ops.real(), s), o); }};
}

/// Slots, dw, dx of the tokens' mixture; y twice, dw, d_o of the slots'.
std::vector<OwnedTensor> run_mixes(Ops& ops, const OwnedTensor& x, const OwnedTensor& w, const OwnedTensor& o,
                                   bool in_place) {
  const Dtype real = ops.real();
  OwnedTensor slots(real, o.shape()), dw(real, w.shape()), dx(real, x.shape());
  ops.mix_tokens_forward({.x = x, .w = w, .y = slots});
  ops.mix_tokens_backward({.dy = o, .x = x, .w = w, .dw = dw, .dx = dx});
  OwnedTensor y = in_place ? x : OwnedTensor(real, x.shape()), dw2(real, w.shape()), d_o(real, o.shape());
  MixSlotsForward forward{.o = o, .w = w, .residual = {}, .y = y};
  if (in_place) forward.residual = forward.y;
  ops.mix_slots_forward(forward);
  OwnedTensor beside(real, x.shape());  // a residual that is not y
  ops.mix_slots_forward({.o = o, .w = w, .residual = x, .y = beside});
  ops.mix_slots_backward({.dy = x, .o = o, .w = w, .dw = dw2, .d_o = d_o});
  return {slots, dw, dx, y, beside, dw2, d_o};
}

VerbCase mix_case(const Sizes& s, bool in_place) {
  return {case_name("soft_mix", {s.leaves * s.groups, s.tokens, s.width, s.slots}) + (in_place ? "_in_place" : ""),
          [=](Ops& ops) {
            const std::int64_t groups = s.leaves * s.groups;
            return run_mixes(ops, random_tensor(ops.real(), {groups, s.tokens, s.width}, 1),
                             random_tensor(ops.real(), {groups, s.tokens, s.slots}, 2),
                             random_tensor(ops.real(), {groups, s.slots, s.width}, 3), in_place);
          }};
}

}  // namespace

std::vector<VerbCase> soft_router_cases() {
  std::vector<VerbCase> cases;
  for (const Sizes& s : kSizes) {
    cases.push_back(soft_router_case(s, {.noise = true, .masked = false, .residual = true}));
    cases.push_back(soft_router_case(s, {.noise = false, .masked = true}));
    cases.push_back(soft_router_case(s, {.noise = true, .masked = true, .in_place = true}));
    cases.push_back(mix_case(s, false));
    cases.push_back(mix_case(s, true));
  }
  return cases;
}

// The second one: many pieces of rows, and a product whose operands are copied.
TEST(CpuSoftRouterBits, OfALeafDoNotDependOnTheOtherLeavesAndGradientsAreTheirTree) {
  const auto ops = make_cpu_ops(2);
  for (const Sizes& s : {Sizes{4, 2, 7, 33, 5}, Sizes{4, 3, 260, 128, 256}}) {
    const SoftInputs in = soft_inputs(Dtype::f32, s);
    const Options options{.noise = true, .masked = true};
    const auto together = run_soft_router(*ops, in, options);
    std::vector<std::vector<OwnedTensor>> alone;
    for (std::int64_t leaf = 0; leaf < 4; ++leaf) {
      const auto of = [&](const OwnedTensor& whole) { return part(whole, 0, leaf); };
      alone.push_back(run_soft_router(
          *ops,
          {of(in.x), in.mu, in.scale, of(in.noise), of(in.valid), of(in.ddispatch), of(in.dcombine), of(in.dresidual)},
          options));
      for (const std::size_t i : {0U, 2U, 3U, 4U})
        EXPECT_TRUE(same_bits(of(together[i]), alone.back()[i])) << "output " << i << " of leaf " << leaf;
    }
    for (const std::size_t i : {5U, 6U})
      EXPECT_TRUE(same_bits(together[i], sum(sum(alone[0][i], alone[1][i]), sum(alone[2][i], alone[3][i]))))
          << "gradient " << i;
  }
}

TEST(CpuSoftRouterBits, OfAGroupDoNotDependOnTheOtherGroups) {
  const auto ops = make_cpu_ops(2);
  const std::int64_t groups = 3, tokens = 70, width = 128, slots = 48;
  const auto x = random_tensor(Dtype::f32, {groups, tokens, width}, 1);
  const auto w = random_tensor(Dtype::f32, {groups, tokens, slots}, 2);
  const auto o = random_tensor(Dtype::f32, {groups, slots, width}, 3);
  const auto together = run_mixes(*ops, x, w, o, true);
  for (std::int64_t g = 0; g < groups; ++g) {
    const auto alone = run_mixes(*ops, part(x, 0, g), part(w, 0, g), part(o, 0, g), true);
    for (std::size_t i = 0; i < alone.size(); ++i)
      EXPECT_TRUE(same_bits(part(together[i], 0, g), alone[i])) << "output " << i << " of group " << g;
  }
}

TEST(CpuSoftRouter, AGroupOfPaddingHasEmptySlots) {
  const auto ops = make_cpu_ops(1);
  SoftInputs in = soft_inputs(Dtype::f32, {1, 2, 7, 33, 5});
  const auto out = run_soft_router(*ops, in, {.noise = true, .masked = true});
  for (std::int64_t i = 0; i < out[2].elements(); ++i) {
    const bool valid = in.valid.get(i / 5) != 0.0;
    EXPECT_EQ(out[2].get(i) != 0.0, valid) << "dispatch weight " << i;
  }
}

}  // namespace vitrail::testing
