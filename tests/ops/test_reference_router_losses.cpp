// The router's losses and their gradients: worked examples of the official implementation and of our own.

#include <cmath>

#include "tests/ops/router_calls.hpp"

namespace vitrail::testing {
namespace {

class ReferenceRouterLosses : public ::testing::Test {
 protected:
  std::unique_ptr<Ops> ops_ = make_reference_ops();
};

TEST_F(ReferenceRouterLosses, ImportanceAndGshardOfTheWorkedExample) {
  const OwnedTensor gates(Dtype::f64, {1, 4, 3}, {.5, .4, .1, .3, .3, .4, .1, .2, .7, .8, .2, .0});
  const OwnedTensor selected(Dtype::i32, {1, 4, 1}, {0, 2, 2, 0});
  const Routing r{gates, gates, selected, {}, {}};
  Tensors l = losses(*ops_, gates, {}, 0.0, r);
  EXPECT_NEAR(l["importance"].get(0), 0.03875, 1e-15);
  EXPECT_NEAR(l["gshard"].get(0), 1.0875, 1e-15);
}

struct LoadExample {
  OwnedTensor z{Dtype::f64, {1, 3, 3}, {.9, .06, .04, .7, .18, .12, .85, .05, .1}};
  OwnedTensor noise{Dtype::f64, {1, 3, 3}, {-.037, .026, -.018, -.074, .045, -.015, -.067, -.059, .073}};
  double sigma = 0.1;
  LoadExample() {  // the example gives the noise that is added
    for (std::int64_t i = 0; i < 9; ++i) noise.set(i, noise.get(i) / sigma);
  }
};

TEST_F(ReferenceRouterLosses, LoadAndImportanceOfTheWorkedExample) {
  const LoadExample example;
  const Routing r = route(*ops_, example.z, example.noise, example.sigma, 2);
  EXPECT_EQ(r.selected.values(), (std::vector<double>{0, 1, 0, 1, 0, 2}));
  Tensors l = losses(*ops_, example.z, example.noise, example.sigma, r);
  EXPECT_NEAR(l["load"].get(0), 0.4857384727, 1e-10);
  EXPECT_NEAR(l["importance"].get(0), 0.13712074000, 1e-11);
  const double clean[] = {.539120583, .232744029, .228135388, .464162282, .275954014,
                          .259883704, .520373801, .233819021, .245807178};
  for (std::int64_t i = 0; i < 9; ++i) EXPECT_NEAR(r.gates_clean.get(i), clean[i], 1e-9);
}

TEST_F(ReferenceRouterLosses, NoiseReachesGatesButNotImportance) {
  OwnedTensor logits(Dtype::f64, {1, 5, 4});
  for (std::int64_t i = 0; i < 20; ++i) logits.set(i, static_cast<double>(i));
  const double sigma = 2.0 / 4;
  const OwnedTensor noise1 = random_tensor(Dtype::f64, {1, 5, 4}, 1), noise2 = random_tensor(Dtype::f64, {1, 5, 4}, 2);
  const Routing r1 = route(*ops_, logits, noise1, sigma, 2), r2 = route(*ops_, logits, noise2, sigma, 2);
  const Routing quiet = route(*ops_, logits, {}, sigma, 2);
  EXPECT_TRUE(same_bits(r1.gates_clean, r2.gates_clean));
  EXPECT_TRUE(same_bits(quiet.gates, quiet.gates_clean));
  EXPECT_TRUE(same_bits(quiet.gates, r1.gates_clean));
  EXPECT_GT(largest_difference(r1.gates, r2.gates), 1e-3);
  Tensors l1 = losses(*ops_, logits, noise1, sigma, r1), l2 = losses(*ops_, logits, noise2, sigma, r2);
  EXPECT_TRUE(same_bits(l1["importance"], l2["importance"]));
  EXPECT_NE(l1["load"].get(0), l2["load"].get(0));
  EXPECT_NE(l1["gshard"].get(0), l2["gshard"].get(0));
  EXPECT_EQ(losses(*ops_, logits, {}, sigma, quiet)["load"].get(0), 0.0);
  EXPECT_EQ(losses(*ops_, logits, noise1, 0.0, quiet)["load"].get(0), 0.0);
}

TEST_F(ReferenceRouterLosses, GradientOfImportanceOfTheWorkedExample) {
  const LoadExample example;
  const Routing r = route(*ops_, example.z, example.noise, example.sigma, 2);
  const OwnedTensor dz =
      logits_gradient(*ops_, example.z, example.noise, example.sigma, r, zeros({1, 3, 2}), {.importance = 1.0});
  const double expected[] = {.130105554,   -.0650357818, -.0650697722, .130220003,  -.0662872715,
                             -.0639327318, .130714873,   -.0630295528, -.0676853200};
  for (std::int64_t i = 0; i < 9; ++i) EXPECT_NEAR(dz.get(i), expected[i], 1e-9);
}

// Logits (0, 0) and (log 3, 0): logs of the sums of exp are log 2 and 2 log 2, gates (1/2, 1/2) and (3/4, 1/4).
TEST_F(ReferenceRouterLosses, ZIsTheMeanSquareOfTheLogOfTheSumOfExp) {
  const OwnedTensor logits(Dtype::f64, {1, 2, 2}, {0, 0, std::log(3.0), 0});
  const OwnedTensor noise = random_tensor(Dtype::f64, {1, 2, 2}, 1);
  const double log2 = std::log(2.0);
  for (const bool noisy : {false, true}) {  // the noise does not count
    const Routing r = route(*ops_, logits, noisy ? noise : OwnedTensor(), 0.5, 1);
    Tensors l = losses(*ops_, logits, noisy ? noise : OwnedTensor(), 0.5, r);
    EXPECT_NEAR(l["z"].get(0), 1.2011325347955035, 1e-15);  // (log2^2 + 4 log2^2) / 2
    const OwnedTensor dz =
        logits_gradient(*ops_, logits, noisy ? noise : OwnedTensor(), 0.5, r, zeros({1, 2, 1}), {.z = 10.0});
    // 10 * 2 / S * log of the sum * gate
    const double expected[] = {5 * log2, 5 * log2, 15 * log2, 5 * log2};
    for (std::int64_t i = 0; i < 4; ++i) EXPECT_NEAR(dz.get(i), expected[i], 1e-14);
  }
}

TEST_F(ReferenceRouterLosses, BalancedGatesHaveNoLossAndNoGradient) {
  for (const std::int64_t experts : {1, 2, 4}) {
    const OwnedTensor logits = zeros({1, 6, experts}), noise = zeros({1, 6, experts});
    const double sigma = 1.0 / static_cast<double>(experts);
    const Routing r = route(*ops_, logits, noise, sigma, 1);
    Tensors l = losses(*ops_, logits, noise, sigma, r);
    EXPECT_EQ(l["importance"].get(0), 0.0);
    EXPECT_EQ(l["load"].get(0), 0.0);
    const OwnedTensor dz =
        logits_gradient(*ops_, logits, noise, sigma, r, zeros({1, 6, 1}), {.importance = 1.0, .load = 1.0});
    for (std::int64_t i = 0; i < dz.elements(); ++i) EXPECT_NEAR(dz.get(i), 0.0, 1e-16);
  }
}

TEST_F(ReferenceRouterLosses, LossesLeavePaddingOut) {
  const std::int64_t tokens = 5, experts = 3;
  const OwnedTensor logits = random_tensor(Dtype::f64, {1, tokens, experts}, 1);
  const OwnedTensor noise = random_tensor(Dtype::f64, {1, tokens, experts}, 2);
  const OwnedTensor valid(Dtype::u8, {1, tokens}, {1, 0, 1, 1, 0});
  OwnedTensor few(Dtype::f64, {1, 3, experts}), few_noise(Dtype::f64, {1, 3, experts});
  std::int64_t place = 0;
  for (const std::int64_t s : {0, 2, 3}) {
    for (std::int64_t e = 0; e < experts; ++e, ++place) {
      few.set(place, logits.get(s * experts + e));
      few_noise.set(place, noise.get(s * experts + e));
    }
  }
  const Routing r = route(*ops_, logits, noise, 0.3, 2, TokenOrder::vanilla, valid);
  const Routing few_r = route(*ops_, few, few_noise, 0.3, 2);
  Tensors l = losses(*ops_, logits, noise, 0.3, r, valid), all = losses(*ops_, logits, noise, 0.3, r);
  Tensors expected = losses(*ops_, few, few_noise, 0.3, few_r);
  for (const char* name : {"importance", "load", "gshard", "z"}) {
    EXPECT_TRUE(same_bits(l[name], expected[name])) << name;
    EXPECT_NE(l[name].get(0), all[name].get(0)) << name;
  }
  const OwnedTensor none(Dtype::u8, {1, tokens}, {0, 0, 0, 0, 0});
  l = losses(*ops_, logits, noise, 0.3, route(*ops_, logits, noise, 0.3, 2, TokenOrder::vanilla, none), none);
  for (const char* name : {"importance", "load", "gshard", "z"}) EXPECT_EQ(l[name].get(0), 0.0) << name;
}

}  // namespace
}  // namespace vitrail::testing
