// The routers of the cuda back end: decisions are the reference's to the last slot, and bits depend on one group alone.

#include <cmath>
#include <memory>

#include <gtest/gtest.h>

#include "tests/ops/leaf_parts.hpp"
#include "tests/ops/router_calls.hpp"

namespace vitrail::testing {

namespace {

constexpr TokenOrder kOrders[] = {TokenOrder::vanilla, TokenOrder::prioritized, TokenOrder::prioritized_sum,
                                  TokenOrder::reversed, TokenOrder::random};

class CudaRouter : public ::testing::Test {
 protected:
  /// What run(ops) gives. Tensors that it looks at live no longer than the device.
  template <class Run>
  auto on_device(const Run& run) {
    const OnDevice here(*device_);
    return run(*ops_);
  }
  template <class Run>
  static auto by_reference(const Run& run) {
    return run(*make_reference_ops());
  }

 private:
  std::unique_ptr<Device> device_ = make_cuda_device();
  std::unique_ptr<Ops> ops_ = make_cuda_ops(*device_, Precision::f32);
};

/// Multiples of 1/256 in 0 .. 1: many are equal, and sums of them are exact.
OwnedTensor coarse_gates(Shape shape, std::uint32_t stream) {
  OwnedTensor gates = random_integers(Dtype::f32, shape, stream, 257);
  for (std::int64_t i = 0; i < gates.elements(); ++i) gates.set(i, gates.get(i) / 256.0);
  return gates;
}

void expect_equal(const OwnedTensor& got, const OwnedTensor& expected, const std::string& what) {
  ASSERT_EQ(got.shape(), expected.shape()) << what;
  std::int64_t different = 0;
  for (std::int64_t i = 0; i < got.elements(); ++i) different += got.get(i) == expected.get(i) ? 0 : 1;
  EXPECT_EQ(different, 0) << what << " of " << got.elements();
}

struct Crowd {
  std::int64_t groups, tokens, experts, choices;
};
class CudaRouterSlots : public CudaRouter, public ::testing::WithParamInterface<Crowd> {};

TEST_P(CudaRouterSlots, AreThoseOfTheReferenceInEveryOrder) {
  const Crowd& crowd = GetParam();
  const OwnedTensor gates = coarse_gates({crowd.groups, crowd.tokens, crowd.experts}, 1);
  for (const TokenOrder order : kOrders) {
    const RouterDraw draw{.seed = 3, .step = 4, .layer = 5, .first_token = 1001};
    const Routing expected =
        by_reference([&](Ops& ops) { return route_gates(ops, gates.to(Dtype::f64), crowd.choices, order, draw); });
    const Routing got = on_device([&](Ops& ops) { return route_gates(ops, gates, crowd.choices, order, draw); });
    const std::string name = "order " + std::to_string(static_cast<int>(order));
    expect_equal(got.selected, expected.selected, "experts, " + name);
    expect_equal(got.slot, expected.slot, "slots, " + name);
    expect_equal(got.gate, expected.gate, "gates, " + name);
  }
}

// Eight images of 197 tokens; more keys than 2048; more than shared memory holds; more assignments than threads can
// count at once.
INSTANTIATE_TEST_SUITE_P(Crowds, CudaRouterSlots,
                         ::testing::Values(Crowd{2, 1576, 8, 2}, Crowd{1, 1576, 32, 2}, Crowd{1, 788, 128, 4},
                                           Crowd{1, 2100, 6, 1}, Crowd{1, 16500, 3, 1}, Crowd{3, 9, 200, 200}));

class CudaRouterChoice : public CudaRouter, public ::testing::WithParamInterface<Crowd> {};

TEST_P(CudaRouterChoice, OfExpertsIsThatOfTheReference) {
  const Crowd& crowd = GetParam();
  const OwnedTensor gates = coarse_gates({crowd.groups, crowd.tokens, crowd.experts}, 2);
  const OwnedTensor valid = random_integers(Dtype::u8, {crowd.groups, crowd.tokens}, 3, 3);
  for (const bool masked : {false, true}) {
    const auto choose = [&](Ops& ops, const OwnedTensor& of) {
      return choose_tokens(ops, {}, {}, 0.0, of, crowd.choices, masked ? valid : OwnedTensor());
    };
    const Routing expected = by_reference([&](Ops& ops) { return choose(ops, gates.to(Dtype::f64)); });
    const Routing got = on_device([&](Ops& ops) { return choose(ops, gates); });
    expect_equal(got.selected, expected.selected, "experts");
    expect_equal(got.slot, expected.slot, "slots");
  }
}

// `choices` are the capacity here.
INSTANTIATE_TEST_SUITE_P(Crowds, CudaRouterChoice,
                         ::testing::Values(Crowd{2, 1576, 8, 200}, Crowd{1, 2100, 3, 2100}, Crowd{1, 16500, 2, 20}));

// The slots of a NaN gate must stay in range, or memory is overwritten before anybody sees the NaN.
TEST_F(CudaRouter, SelectsTheExpertsOfTheReferenceEvenOfNaN) {
  for (const std::int64_t experts : {5, 8, 32, 70}) {
    OwnedTensor gates = coarse_gates({1, 60, experts}, 4);
    const OwnedTensor nan = random_integers(Dtype::i32, gates.shape(), 5, 3);
    for (std::int64_t i = 0; i < gates.elements(); ++i) {
      if (nan.get(i) == 0.0 || i < experts) gates.set(i, std::nan(""));
    }
    for (const std::int64_t choices : {std::int64_t{2}, experts}) {
      const Routing expected =
          by_reference([&](Ops& ops) { return route_gates(ops, gates.to(Dtype::f64), choices, TokenOrder::vanilla); });
      const Routing got = on_device([&](Ops& ops) { return route_gates(ops, gates, choices, TokenOrder::vanilla); });
      expect_equal(got.selected, expected.selected, "experts");
      expect_equal(got.slot, expected.slot, "slots");
      EXPECT_TRUE(std::isnan(got.gate.get(0)));
    }
  }
}

TEST_F(CudaRouter, GivesEveryTokenAPlaceEvenIfItsGatesAreNaN) {
  OwnedTensor logits = random_tensor(Dtype::f32, {1, 50, 4}, 6);
  for (std::int64_t i = 40; i < 80; ++i) logits.set(i, std::nan(""));
  for (const TokenOrder order : kOrders) {
    const Routing got = on_device([&](Ops& ops) { return route(ops, logits, {}, 0.0, 2, order); });
    std::vector<std::vector<int>> takers(4, std::vector<int>(100, 0));
    for (std::int64_t i = 0; i < got.slot.elements(); ++i) {
      const auto expert = static_cast<std::size_t>(got.selected.get(i)),
                 slot = static_cast<std::size_t>(got.slot.get(i));
      ASSERT_LT(expert, 4U);
      ASSERT_LT(slot, 100U);
      EXPECT_EQ(++takers[expert][slot], 1) << "slot " << slot << " of expert " << expert;
    }
  }
}

// Whole life of a group: gates, losses, gradients.
std::vector<OwnedTensor> life_of_groups(Ops& ops, const OwnedTensor& logits, const OwnedTensor& noise,
                                        const OwnedTensor& dgate, TokenOrder order, std::uint64_t first_token) {
  const Shape& shape = logits.shape();
  const std::int64_t choices = dgate.shape()[2];
  Routing r{OwnedTensor(Dtype::f32, shape), OwnedTensor(Dtype::f32, shape), OwnedTensor(Dtype::i32, dgate.shape()),
            OwnedTensor(Dtype::i32, dgate.shape()), OwnedTensor(Dtype::f32, dgate.shape())};
  const RouterDraw draw{.seed = 5, .step = 7, .layer = 3, .first_token = first_token};
  ops.route_top_k({.logits = logits,
                   .noise = noise,
                   .noise_std = 0.1,
                   .valid = {},
                   .order = order,
                   .draw = draw,
                   .gates_clean = r.gates_clean,
                   .gates = r.gates,
                   .selected = r.selected,
                   .slot = r.slot,
                   .gate = r.gate});
  const Routing chosen = choose_tokens(ops, logits, noise, 0.1, {}, choices);
  const Tensors loss = losses(ops, logits, noise, 0.1, r);
  OwnedTensor shuffled(Dtype::f32, shape);
  const Shape flat{shape[0] * shape[1], shape[2]};
  ops.shuffle_experts({.x = logits.view().view(flat), .draw = draw, .y = shuffled.view().view(flat)});
  std::vector<OwnedTensor> out{
      r.gates_clean,
      r.gates,
      r.selected,
      r.slot,
      r.gate,
      chosen.slot,
      shuffled,
      logits_gradient(ops, logits, noise, 0.1, r, dgate, {.importance = 0.5, .load = 0.7, .gshard = 0.9, .z = 0.3})};
  for (const auto& [name, value] : loss) out.push_back(value);
  return out;
}

class CudaRouterBits : public CudaRouter, public ::testing::WithParamInterface<Crowd> {};

TEST_P(CudaRouterBits, OfAGroupDoNotDependOnTheOtherGroups) {
  const auto [groups, tokens, experts, choices] = GetParam();
  const std::int64_t each = tokens;  // lambdas of C++20 cannot take what is bound above
  const OwnedTensor logits = random_tensor(Dtype::f32, {groups, tokens, experts}, 1, 0.5);
  const OwnedTensor noise = random_tensor(Dtype::f32, {groups, tokens, experts}, 2);
  const OwnedTensor dgate = random_tensor(Dtype::f32, {groups, tokens, choices}, 3);
  const auto run = [&](std::int64_t first, std::int64_t count, TokenOrder order) {
    return on_device([&](Ops& ops) {
      return life_of_groups(ops, part(logits, 0, first, count), part(noise, 0, first, count),
                            part(dgate, 0, first, count), order, static_cast<std::uint64_t>(1000 + first * each));
    });
  };
  for (const TokenOrder order : {TokenOrder::vanilla, TokenOrder::prioritized, TokenOrder::random}) {
    const auto together = run(0, groups, order);
    for (std::int64_t group = 0; group < groups; ++group) {
      const auto alone = run(group, 1, order);
      for (std::size_t i = 0; i < alone.size(); ++i)
        EXPECT_TRUE(same_bits(part(together[i], 0, group), alone[i])) << "output " << i << " of group " << group;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Crowds, CudaRouterBits,
                         ::testing::Values(Crowd{3, 150, 8, 2}, Crowd{3, 70, 33, 3}, Crowd{2, 65, 130, 2}));

TEST_F(CudaRouter, RefusesMoreExpertsThanFitRegisters) {
  const OwnedTensor gates = coarse_gates({1, 2, 1025}, 1);
  try {
    on_device([&](Ops& ops) { return route_gates(ops, gates, 1, TokenOrder::vanilla); });
    FAIL() << "was let through";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::usage);
  }
}

}  // namespace
}  // namespace vitrail::testing
