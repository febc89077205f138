// Routing and the router's losses: worked examples of the official implementation, and the whole sparse path against
// complex-step derivatives.

#include <cmath>

#include "tests/ops/gradient_check.hpp"

namespace vitrail::testing {
namespace {

// Everything that route_top_k gives for `groups` groups.
struct Routing {
  OwnedTensor gates_clean, gates, selected, slot, gate;
};

Routing route(Ops& ops, const OwnedTensor& logits, const OwnedTensor& noise, double sigma, std::int64_t choices,
              TokenOrder order = TokenOrder::vanilla, const OwnedTensor& valid = {}) {
  const Shape& shape = logits.shape();
  const Shape chosen{shape[0], shape[1], choices};
  Routing r{OwnedTensor(ops.real(), shape), OwnedTensor(ops.real(), shape), OwnedTensor(Dtype::i32, chosen),
            OwnedTensor(Dtype::i32, chosen), OwnedTensor(ops.real(), chosen)};
  ops.route_top_k({.logits = logits,
                   .noise = noise,
                   .noise_std = sigma,
                   .valid = valid,
                   .order = order,
                   .gates_clean = r.gates_clean,
                   .gates = r.gates,
                   .selected = r.selected,
                   .slot = r.slot,
                   .gate = r.gate});
  return r;
}

// importance, load, gshard of every group
Tensors losses(Ops& ops, const OwnedTensor& logits, const OwnedTensor& noise, double sigma, const Routing& r,
               const OwnedTensor& valid = {}) {
  Tensors out;
  for (const char* name : {"importance", "load", "gshard", "z"})
    out[name] = OwnedTensor(ops.real(), Shape{logits.shape()[0]});
  ops.router_losses_forward({.logits = logits,
                             .noise = noise,
                             .noise_std = sigma,
                             .gates_clean = r.gates_clean,
                             .gates = r.gates,
                             .selected = r.selected,
                             .valid = valid,
                             .importance = out["importance"],
                             .load = out["load"],
                             .gshard = out["gshard"],
                             .z = out["z"]});
  return out;
}

class ReferenceRouter : public ::testing::Test {
 protected:
  std::unique_ptr<Ops> ops_ = make_reference_ops();
};

// --- routing ---------------------------------------------------------------------------------------------------------

// Gates that are given are taken as they are: rows need not sum to 1.
Routing route_gates(Ops& ops, const OwnedTensor& gates, std::int64_t choices, TokenOrder order) {
  const Shape chosen{gates.shape()[0], gates.shape()[1], choices};
  Routing r{
      {}, gates, OwnedTensor(Dtype::i32, chosen), OwnedTensor(Dtype::i32, chosen), OwnedTensor(ops.real(), chosen)};
  ops.route_top_k({.logits = {},
                   .noise = {},
                   .valid = {},
                   .order = order,
                   .gates_clean = {},
                   .gates = r.gates,
                   .selected = r.selected,
                   .slot = r.slot,
                   .gate = r.gate});
  return r;
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
  // Expert outputs are unit vectors of their own (expert, slot): the combined rows are the combine tensor.
  const Routing r = route_gates(*ops_, gates_, 2, TokenOrder::vanilla);
  OwnedTensor source(Dtype::i32, {1, 1, 3, 2}), row(Dtype::i32, {1, 1, 3, 2}), y(Dtype::f64, {3, 6});
  ops_->map_slots({.selected = r.selected.view().view(row.shape()),
                   .slot = r.slot.view().view(row.shape()),
                   .capacity = 2,
                   .source = source,
                   .row = row});
  OwnedTensor unit(Dtype::f64, {6, 6});
  for (std::int64_t i = 0; i < 36; ++i) unit.set(i, i % 7 == 0 ? 1.0 : 0.0);
  ops_->combine_rows_forward(
      {.o = unit, .row = row.view().view({3, 2}), .gate = r.gate.view().view({3, 2}), .residual = {}, .y = y});
  EXPECT_EQ(y.values(), (std::vector<double>{.4, 0, 0, 0, 0, .2, 0, .5, 0, 0, 0, 0, 0, 0, 0, 0, .6, 0}));
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

TEST_F(ReferenceRouter, NoiseReachesGatesButNotImportance) {
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

TEST_F(ReferenceRouter, RefusesOtherAxesAndTooManyChoices) {
  const OwnedTensor logits = random_tensor(Dtype::f64, {1, 5, 4}, 1);
  EXPECT_THROW(route(*ops_, logits, {}, 0.0, 0), Error);
  EXPECT_THROW(route(*ops_, logits, {}, 0.0, 5), Error);
  EXPECT_THROW(route(*ops_, random_tensor(Dtype::f64, {1, 5, 4, 1}, 1), {}, 0.0, 2), Error);
}

// --- losses ----------------------------------------------------------------------------------------------------------

TEST_F(ReferenceRouter, ImportanceAndGshardOfTheWorkedExample) {
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

TEST_F(ReferenceRouter, LoadAndImportanceOfTheWorkedExample) {
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

OwnedTensor logits_gradient(Ops& ops, const OwnedTensor& logits, const OwnedTensor& noise, double sigma,
                            const Routing& r, const OwnedTensor& dgate, double importance, double load, double gshard) {
  OwnedTensor dlogits(ops.real(), logits.shape());
  ops.router_backward({.dgate = dgate,
                       .logits = logits,
                       .noise = noise,
                       .noise_std = sigma,
                       .gates_clean = r.gates_clean,
                       .gates = r.gates,
                       .selected = r.selected,
                       .importance_scale = importance,
                       .load_scale = load,
                       .gshard_scale = gshard,
                       .dlogits = dlogits});
  return dlogits;
}

OwnedTensor zeros(Shape shape) {
  OwnedTensor tensor(Dtype::f64, shape);
  for (std::int64_t i = 0; i < tensor.elements(); ++i) tensor.set(i, 0.0);
  return tensor;
}

TEST_F(ReferenceRouter, GradientOfImportanceOfTheWorkedExample) {
  const LoadExample example;
  const Routing r = route(*ops_, example.z, example.noise, example.sigma, 2);
  const OwnedTensor dz =
      logits_gradient(*ops_, example.z, example.noise, example.sigma, r, zeros({1, 3, 2}), 1.0, 0.0, 0.0);
  const double expected[] = {.130105554,   -.0650357818, -.0650697722, .130220003,  -.0662872715,
                             -.0639327318, .130714873,   -.0630295528, -.0676853200};
  for (std::int64_t i = 0; i < 9; ++i) EXPECT_NEAR(dz.get(i), expected[i], 1e-9);
}

TEST_F(ReferenceRouter, BalancedGatesHaveNoLossAndNoGradient) {
  for (const std::int64_t experts : {1, 2, 4}) {
    const OwnedTensor logits = zeros({1, 6, experts}), noise = zeros({1, 6, experts});
    const double sigma = 1.0 / static_cast<double>(experts);
    const Routing r = route(*ops_, logits, noise, sigma, 1);
    Tensors l = losses(*ops_, logits, noise, sigma, r);
    EXPECT_EQ(l["importance"].get(0), 0.0);
    EXPECT_EQ(l["load"].get(0), 0.0);
    const OwnedTensor dz = logits_gradient(*ops_, logits, noise, sigma, r, zeros({1, 6, 1}), 1.0, 1.0, 0.0);
    for (std::int64_t i = 0; i < dz.elements(); ++i) EXPECT_NEAR(dz.get(i), 0.0, 1e-16);
  }
}

TEST_F(ReferenceRouter, LossesLeavePaddingOut) {
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

// --- the whole sparse path: route, gather, experts of one factor per row, combine, losses
// -----------------------------

struct RouterVariant {
  std::int64_t leaves, groups, tokens, experts, choices, capacity, owners;
  bool noise;
  TokenOrder order;
  double importance, load, gshard;
};

void PrintTo(const RouterVariant& v, std::ostream* out) {
  *out << "leaves " << v.leaves << ", groups " << v.groups << ", S " << v.tokens << ", E " << v.experts << ", K "
       << v.choices << ", C " << v.capacity << ", owners " << v.owners << ", noise " << v.noise;
}

class ReferenceRouterGradients : public ::testing::TestWithParam<RouterVariant> {
 protected:
  static constexpr std::int64_t kWidth = 2;
  static constexpr double kSigma = 0.4;

  [[nodiscard]] std::int64_t all_tokens() const { return v_.leaves * v_.groups * v_.tokens; }
  [[nodiscard]] Shape rows_shape() const {
    return {v_.owners, v_.leaves, v_.experts / v_.owners, v_.groups * v_.capacity};
  }
  [[nodiscard]] std::int64_t rows() const { return rows_shape().elements(); }
  [[nodiscard]] OwnedTensor noise(Dtype real) const {
    const Shape shape{v_.leaves * v_.groups, v_.tokens, v_.experts};
    return v_.noise ? random_tensor(real, shape, 77) : OwnedTensor();
  }

  struct Path {
    Routing r;
    OwnedTensor source, row, buffer, o;
    Tensors out;
  };
  // y = residual + sum of gate * o, o = buffer * factor, buffer = rows of x
  Path forward(Ops& ops, Tensors& in) const {
    Path p{route(ops, in["logits"], noise(ops.real()), kSigma, v_.choices, v_.order),
           OwnedTensor(Dtype::i32, rows_shape()),
           OwnedTensor(Dtype::i32, {v_.leaves, v_.groups, v_.tokens, v_.choices}),
           OwnedTensor(ops.real(), {rows(), kWidth}),
           OwnedTensor(ops.real(), {rows(), kWidth}),
           {}};
    ops.map_slots({.selected = p.r.selected.view().view(p.row.shape()),
                   .slot = p.r.slot.view().view(p.row.shape()),
                   .capacity = v_.capacity,
                   .source = p.source,
                   .row = p.row});
    ops.gather_rows_forward(
        {.x = in["x"], .source = p.source.view().view({rows()}), .choices = v_.choices, .y = p.buffer});
    multiply(p.buffer, in["factor"], p.o);
    p.out = losses(ops, in["logits"], noise(ops.real()), kSigma, p.r);
    p.out["y"] = OwnedTensor(ops.real(), {all_tokens(), kWidth});
    ops.combine_rows_forward({.o = p.o,
                              .row = p.row.view().view({all_tokens(), v_.choices}),
                              .gate = p.r.gate.view().view({all_tokens(), v_.choices}),
                              .residual = in["residual"],
                              .y = p.out["y"]});
    p.out["x passed on"] = in["x"];
    return p;
  }
  static void multiply(const OwnedTensor& a, const OwnedTensor& b, OwnedTensor& out) {
    for (std::int64_t i = 0; i < out.elements(); ++i) {
      if (out.dtype() == Dtype::f64) {
        out.as<double>()[i] = a.as<double>()[i] * b.as<double>()[i];
      } else {
        using C = std::complex<double>;
        out.as<C>()[i] = a.as<C>()[i] * b.as<C>()[i];
      }
    }
  }
  Tensors backward(Ops& ops, Tensors& in, Tensors& cotangent) const {
    Path p = forward(ops, in);
    const OwnedTensor quiet = noise(Dtype::f64);
    const Shape chosen{all_tokens(), v_.choices};
    OwnedTensor d_o(Dtype::f64, {rows(), kWidth}), dgate(Dtype::f64, p.r.gate.shape());
    OwnedTensor dbuffer(Dtype::f64, {rows(), kWidth});
    Tensors gradient;
    for (const auto& [name, input] : in) gradient[name] = OwnedTensor(Dtype::f64, input.shape());
    ops.combine_rows_backward({.dy = cotangent["y"],
                               .o = p.o,
                               .row = p.row.view().view(chosen),
                               .source = p.source.view().view({rows()}),
                               .gate = p.r.gate.view().view(chosen),
                               .d_o = d_o,
                               .dgate = dgate.view().view(chosen)});
    multiply(d_o, p.buffer, gradient["factor"]);
    multiply(d_o, in["factor"], dbuffer);
    ops.gather_rows_backward(
        {.dy = dbuffer, .row = p.row.view().view(chosen), .dresidual = cotangent["x passed on"], .dx = gradient["x"]});
    gradient["logits"] =
        logits_gradient(ops, in["logits"], quiet, kSigma, p.r, dgate, v_.importance, v_.load, v_.gshard);
    gradient["residual"] = cotangent["y"];
    return gradient;
  }

  RouterVariant v_ = GetParam();
};

TEST_P(ReferenceRouterGradients, BackwardOfTheSparsePathIsTheDerivative) {
  GradientCase test;
  test.inputs["logits"] = random_tensor(Dtype::f64, {v_.leaves * v_.groups, v_.tokens, v_.experts}, 1);
  test.inputs["x"] = random_tensor(Dtype::f64, {all_tokens(), kWidth}, 2);
  test.inputs["factor"] = random_tensor(Dtype::f64, {rows(), kWidth}, 3);
  test.inputs["residual"] = random_tensor(Dtype::f64, {all_tokens(), kWidth}, 4);
  test.forward = [this](Ops& ops, Tensors in) { return forward(ops, in).out; };
  test.backward = [this](Ops& ops, Tensors in, Tensors, Tensors cotangent) { return backward(ops, in, cotangent); };
  const std::pair<const char*, double> scales[] = {
      {"importance", v_.importance}, {"load", v_.load}, {"gshard", v_.gshard}};
  for (const auto& [name, scale] : scales) {
    test.cotangents[name] = zeros({v_.leaves * v_.groups});
    for (std::int64_t g = 0; g < v_.leaves * v_.groups; ++g) test.cotangents[name].set(g, scale);
  }
  check_gradients(test);
}

constexpr TokenOrder kVanilla = TokenOrder::vanilla;
constexpr TokenOrder kPrioritized = TokenOrder::prioritized;
INSTANTIATE_TEST_SUITE_P(Variants, ReferenceRouterGradients,
                         ::testing::Values(RouterVariant{1, 2, 6, 4, 2, 2, 1, true, kVanilla, 0.7, 0.0, 0.0},
                                           RouterVariant{1, 2, 6, 4, 2, 2, 1, true, kVanilla, 0.0, 0.9, 0.0},
                                           RouterVariant{1, 2, 6, 4, 2, 2, 1, true, kVanilla, 0.0, 0.0, 1.3},
                                           RouterVariant{4, 2, 5, 4, 2, 2, 2, true, kPrioritized, 0.7, 0.9, 1.3},
                                           RouterVariant{2, 1, 5, 4, 4, 3, 4, true, kVanilla, 0.7, 0.9, 1.3},
                                           RouterVariant{1, 2, 5, 3, 1, 1, 3, false, kPrioritized, 0.7, 0.9, 1.3},
                                           RouterVariant{1, 1, 4, 1, 1, 3, 1, true, kVanilla, 0.7, 0.9, 1.3}));

}  // namespace
}  // namespace vitrail::testing
