// The routers' choices: worked examples of the official implementation and of our own.

#include <algorithm>

#include "tests/ops/router_calls.hpp"

namespace vitrail::testing {
namespace {

class ReferenceRouter : public ::testing::Test {
 protected:
  std::unique_ptr<Ops> ops_ = make_reference_ops();
};

// combine[t, e * C + slot] = gate: what comes out when the outputs of the expert rows are unit vectors of their own.
OwnedTensor combine_tensor(Ops& ops, const Routing& r, std::int64_t experts, std::int64_t capacity) {
  const std::int64_t tokens = r.selected.shape()[1], choices = r.selected.shape()[2], rows = experts * capacity;
  OwnedTensor source(Dtype::i32, {1, 1, experts, capacity}), row(Dtype::i32, {1, 1, tokens, choices});
  ops.map_slots({.selected = r.selected.view().view(row.shape()),
                 .slot = r.slot.view().view(row.shape()),
                 .capacity = capacity,
                 .source = source,
                 .row = row});
  OwnedTensor unit(Dtype::f64, {rows, rows}), y(Dtype::f64, {tokens, rows});
  for (std::int64_t i = 0; i < unit.elements(); ++i) unit.set(i, i % (rows + 1) == 0 ? 1.0 : 0.0);
  ops.combine_rows_forward({.o = unit,
                            .row = row.view().view({tokens, choices}),
                            .gate = r.gate.view().view({tokens, choices}),
                            .residual = {},
                            .y = y});
  return y;
}

class ReferenceSlots : public ReferenceRouter {
 protected:
  OwnedTensor gates_{Dtype::f64, {1, 3, 3}, {.4, .0, .2, .5, .1, .4, .3, .2, .6}};
};

TEST_F(ReferenceSlots, AreTakenChoiceByChoiceInTheOrderOfTheTokens) {
  const Routing r = route_gates(*ops_, gates_, 2, TokenOrder::vanilla);
  EXPECT_EQ(r.selected.values(), (std::vector<double>{0, 2, 0, 2, 2, 0}));
  EXPECT_EQ(r.slot.values(), (std::vector<double>{0, 1, 1, 2, 0, 2}));
  EXPECT_EQ(r.gate.values(), (std::vector<double>{.4, .2, .5, .4, .6, .3}));
  EXPECT_TRUE(same_bits(r.gates, gates_));
}

TEST_F(ReferenceSlots, AreTakenByDescendingFirstGateWhenPrioritized) {
  const Routing r = route_gates(*ops_, gates_, 2, TokenOrder::prioritized);
  EXPECT_EQ(r.selected.values(), (std::vector<double>{0, 2, 0, 2, 2, 0}));
  EXPECT_EQ(r.slot.values(), (std::vector<double>{1, 2, 0, 1, 0, 2}));
}

TEST_F(ReferenceSlots, OfWhichTheWorkedCombineTensorKeepsFour) {
  const Routing r = route_gates(*ops_, gates_, 2, TokenOrder::vanilla);
  EXPECT_EQ(combine_tensor(*ops_, r, 3, 2).values(),
            (std::vector<double>{.4, 0, 0, 0, 0, .2, 0, .5, 0, 0, 0, 0, 0, 0, 0, 0, .6, 0}));
}

TEST_F(ReferenceSlots, GoToTheSmallestFirstGateWhenReversed) {
  // First gates .4, .5, .6: the tokens as they come.
  EXPECT_EQ(route_gates(*ops_, gates_, 2, TokenOrder::reversed).slot.values(), (std::vector<double>{0, 1, 1, 2, 0, 2}));
  // First gates .6, .5, .6: the middle one, then the tie by place.
  const OwnedTensor other(Dtype::f64, {1, 3, 2}, {.6, .1, .5, .2, .6, .3});
  EXPECT_EQ(route_gates(*ops_, other, 1, TokenOrder::reversed).slot.values(), (std::vector<double>{1, 0, 2}));
}

TEST_F(ReferenceSlots, GoToTheLargestSumOfChosenGatesWhenThatIsThePriority) {
  // First gates .5, .625, .375, .5; sums of two .75, .625, .75, .875; the third gate must not count.
  const OwnedTensor gates(Dtype::f64, {1, 4, 3}, {.5, .25, .2, .625, 0, 0, .375, .375, .375, .5, .375, .1});
  EXPECT_EQ(route_gates(*ops_, gates, 2, TokenOrder::prioritized_sum).slot.values(),
            (std::vector<double>{1, 1, 3, 3, 2, 2, 0, 0}));
  EXPECT_EQ(route_gates(*ops_, gates, 2, TokenOrder::prioritized).slot.values(),
            (std::vector<double>{1, 1, 0, 0, 3, 3, 2, 2}));
  // With one choice the sum is the first gate.
  EXPECT_EQ(route_gates(*ops_, gates, 1, TokenOrder::prioritized_sum).slot.values(),
            route_gates(*ops_, gates, 1, TokenOrder::prioritized).slot.values());
}

TEST_F(ReferenceSlots, AreDrawnByTheIndexOfTheTokenWhenRandom) {
  // One expert: a token's slot is its place among the random numbers of its group.
  const std::int64_t groups = 3, tokens = 9;
  const OwnedTensor gates = zeros({groups, tokens, 1});
  const RouterDraw draw{.seed = 5, .step = 7, .layer = 3, .first_token = 1000};
  const OwnedTensor slot = route_gates(*ops_, gates, 1, TokenOrder::random, draw).slot;
  const Philox random(5, Purpose::token_order, 7, 3);
  for (std::int64_t t = 0; t < groups * tokens; ++t) {
    int before = 0;
    for (std::int64_t other = t / tokens * tokens; other < (t / tokens + 1) * tokens; ++other)
      before +=
          random.bits(1000 + static_cast<std::uint64_t>(other)) < random.bits(1000 + static_cast<std::uint64_t>(t));
    EXPECT_EQ(slot.get(t), before) << "token " << t;
  }
  // The same tokens in another call, which begins at the second group.
  const RouterDraw later{.seed = 5, .step = 7, .layer = 3, .first_token = 1000 + tokens};
  const OwnedTensor rest = route_gates(*ops_, zeros({groups - 1, tokens, 1}), 1, TokenOrder::random, later).slot;
  for (std::int64_t i = 0; i < rest.elements(); ++i) EXPECT_EQ(rest.get(i), slot.get(tokens + i));
  for (const RouterDraw& other : {RouterDraw{6, 7, 3, 1000}, RouterDraw{5, 8, 3, 1000}, RouterDraw{5, 7, 4, 1000}})
    EXPECT_NE(route_gates(*ops_, gates, 1, TokenOrder::random, other).slot.values(), slot.values());
}

TEST_F(ReferenceRouter, TiesGoToTheLowerExpertAndTheEarlierToken) {
  const OwnedTensor logits(Dtype::f64, {1, 2, 3}, {1, 1, 1, 0, 2, 2});
  OwnedTensor equal(Dtype::f64, {1, 3, 2}, {0, 0, 0, 0, 0, 0});
  EXPECT_EQ(route(*ops_, logits, {}, 0.0, 3).selected.values(), (std::vector<double>{0, 1, 2, 1, 2, 0}));
  EXPECT_EQ(route(*ops_, equal, {}, 0.0, 1, TokenOrder::prioritized).slot.values(), (std::vector<double>{0, 1, 2}));
}

TEST_F(ReferenceRouter, EveryGroupCountsItsOwnSlots) {
  const OwnedTensor logits(Dtype::f64, {2, 2, 1}, {0, 0, 0, 0});
  EXPECT_EQ(route(*ops_, logits, {}, 0.0, 1).slot.values(), (std::vector<double>{0, 1, 0, 1}));
}

TEST_F(ReferenceRouter, PaddingTakesNoSlot) {
  const OwnedTensor logits(Dtype::f64, {1, 4, 2}, {1, 0, 2, 0, 3, 0, 4, 0});
  const OwnedTensor valid(Dtype::u8, {1, 4}, {1, 0, 1, 0});
  const Routing r = route(*ops_, logits, {}, 0.0, 2, TokenOrder::prioritized, valid);
  EXPECT_EQ(r.slot.values(), (std::vector<double>{1, 1, -1, -1, 0, 0, -1, -1}));
}

TEST_F(ReferenceRouter, RefusesOtherAxesAndTooManyChoices) {
  const OwnedTensor logits = random_tensor(Dtype::f64, {1, 5, 4}, 1);
  EXPECT_THROW(route(*ops_, logits, {}, 0.0, 0), Error);
  EXPECT_THROW(route(*ops_, logits, {}, 0.0, 5), Error);
  EXPECT_THROW(route(*ops_, random_tensor(Dtype::f64, {1, 5, 4, 1}, 1), {}, 0.0, 2), Error);
}

// --- a router whose decisions were made elsewhere -------------------------------------------------------------------

TEST_F(ReferenceRouter, GivenChoicesHaveTheGatesOfTheSameSoftmaxes) {
  const OwnedTensor logits = random_tensor(Dtype::f64, {2, 5, 4}, 1), noise = random_tensor(Dtype::f64, {2, 5, 4}, 2);
  const Routing own = route(*ops_, logits, noise, 0.5, 2);
  OwnedTensor clean(Dtype::f64, logits.shape()), gates(Dtype::f64, logits.shape()), gate(Dtype::f64, {2, 5, 2});
  RouteAsGiven given{.logits = logits,
                     .noise = noise,
                     .noise_std = 0.5,
                     .selected = own.selected,
                     .gates_clean = clean,
                     .gates = gates,
                     .gate = gate};
  ops_->route_as_given(given);
  EXPECT_TRUE(same_bits(clean, own.gates_clean));
  EXPECT_TRUE(same_bits(gates, own.gates));
  EXPECT_TRUE(same_bits(gate, own.gate));
  // Choices that no router would make: the same expert twice, the worst one.
  OwnedTensor selected(Dtype::i32, {2, 5, 2});
  for (std::int64_t i = 0; i < 20; ++i) selected.set(i, static_cast<double>(i / 2 % 4));
  given.selected = selected;
  ops_->route_as_given(given);
  for (std::int64_t i = 0; i < 20; ++i) EXPECT_EQ(gate.get(i), gates.get(i / 2 * 4 + i / 2 % 4));
}

TEST_F(ReferenceRouter, ShuffledExpertsAreARandomPermutationOfATokensGates) {
  const std::int64_t tokens = 40, experts = 6;
  OwnedTensor x(Dtype::f64, {tokens, experts}), y(Dtype::f64, x.shape()), later(Dtype::f64, {tokens - 7, experts});
  for (std::int64_t i = 0; i < x.elements(); ++i) x.set(i, static_cast<double>(i));
  ShuffleExperts shuffle{.x = x, .draw = {.seed = 5, .step = 7, .layer = 3, .first_token = 50}, .y = y};
  ops_->shuffle_experts(shuffle);
  const Philox random(5, Purpose::random_experts, 7, 3);
  std::vector<double> places(experts, 0.0);
  for (std::int64_t t = 0; t < tokens; ++t) {
    double before = -1.0;  // the number of the expert that stands one place before
    std::vector<bool> seen(experts, false);
    for (std::int64_t i = 0; i < experts; ++i) {
      const auto from = static_cast<std::uint64_t>(y.get(t * experts + i)) - static_cast<std::uint64_t>(t * experts);
      ASSERT_LT(from, seen.size()) << "a number of another token";
      const double number = random.bits((50 + static_cast<std::uint64_t>(t)) * experts + from);
      EXPECT_GT(number, before) << "token " << t << ", place " << i;
      before = number;
      seen[from] = true;
      if (from == 0) ++places[static_cast<std::size_t>(i)];
    }
    EXPECT_EQ(std::count(seen.begin(), seen.end(), true), experts);
  }
  for (const double count : places) EXPECT_GT(count, 0.0) << "expert 0 never comes to some place";
  const OwnedTensor whole = y;
  for (const std::uint64_t first : {57U, 58U}) {  // tokens 7 .. in a call of their own, and one too late
    shuffle.draw.first_token = first;
    shuffle.x = ConstTensor(x.as<double>() + 7 * experts, later.shape(), Dtype::f64);
    shuffle.y = later;
    ops_->shuffle_experts(shuffle);
    EXPECT_EQ(std::equal(later.as<double>(), later.as<double>() + later.elements(), whole.as<double>() + 7 * experts),
              first == 57);
  }
}

// --- experts choose --------------------------------------------------------------------------------------------------

TEST_F(ReferenceSlots, AreFilledByDescendingGateWhenExpertsChoose) {
  const Routing r = choose_tokens(*ops_, {}, {}, 0.0, gates_, 2);
  EXPECT_EQ(r.selected.values(), (std::vector<double>{0, 1, 2, 0, 1, 2, 0, 1, 2}));
  // Expert 0 takes tokens 1, 0; expert 1 takes 2, 1; expert 2 takes 2, 1.
  EXPECT_EQ(r.slot.values(), (std::vector<double>{1, -1, -1, 0, 1, 1, -1, 0, 0}));
  EXPECT_TRUE(same_bits(r.gates, gates_));
  EXPECT_EQ(combine_tensor(*ops_, r, 3, 2).values(),
            (std::vector<double>{0, .4, 0, 0, 0, 0, .5, 0, 0, .1, 0, .4, 0, 0, .2, 0, .6, 0}));
}

TEST_F(ReferenceSlots, OfEqualGatesGoToTheEarlierTokenWhenExpertsChoose) {
  const Routing r = choose_tokens(*ops_, {}, {}, 0.0, zeros({1, 5, 2}), 3);
  EXPECT_EQ(r.slot.values(), (std::vector<double>{0, 0, 1, 1, 2, 2, -1, -1, -1, -1}));
}

TEST_F(ReferenceSlots, AreNotForPaddingWhenExpertsChoose) {
  const OwnedTensor gates(Dtype::f64, {2, 4, 1}, {.9, .2, .8, .3, .1, .2, .3, .4});
  const OwnedTensor valid(Dtype::u8, {2, 4}, {0, 1, 1, 1, 0, 0, 0, 1});
  // Two of three valid tokens; then fewer valid tokens than slots.
  EXPECT_EQ(choose_tokens(*ops_, {}, {}, 0.0, gates, 2, valid).slot.values(),
            (std::vector<double>{-1, -1, 0, 1, -1, -1, -1, 0}));
}

TEST_F(ReferenceRouter, ExpertsChooseByTheNoisyGates) {
  const OwnedTensor logits = random_tensor(Dtype::f64, {2, 6, 3}, 1), noise = random_tensor(Dtype::f64, {2, 6, 3}, 2);
  const Routing r = choose_tokens(*ops_, logits, noise, 0.7, {}, 2), of_tokens = route(*ops_, logits, noise, 0.7, 1);
  EXPECT_TRUE(same_bits(r.gates, of_tokens.gates));
  EXPECT_TRUE(same_bits(r.gates_clean, of_tokens.gates_clean));
  EXPECT_EQ(r.slot.values(), choose_tokens(*ops_, {}, {}, 0.0, r.gates, 2).slot.values());
  EXPECT_NE(r.slot.values(), choose_tokens(*ops_, {}, {}, 0.0, r.gates_clean, 2).slot.values());
}

TEST_F(ReferenceRouter, AnExpertCannotTakeMoreTokensThanThereAre) {
  EXPECT_NO_THROW(choose_tokens(*ops_, {}, {}, 0.0, zeros({1, 3, 2}), 3));
  EXPECT_THROW(choose_tokens(*ops_, {}, {}, 0.0, zeros({1, 3, 2}), 4), Error);
  EXPECT_THROW(choose_tokens(*ops_, {}, {}, 0.0, zeros({1, 3, 2}), 0), Error);
}

}  // namespace
}  // namespace vitrail::testing
