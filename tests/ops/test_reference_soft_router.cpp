// Soft MoE: numbers by hand, padding, and its verbs against complex-step derivatives.

#include <cmath>

#include "tests/ops/gradient_check.hpp"

namespace vitrail::testing {
namespace {

// Everything that soft_router_forward gives.
struct SoftWeights {
  OwnedTensor x_rnorm, mu_rnorm, dispatch, combine;
};
SoftWeights soft_router(Ops& ops, const OwnedTensor& x, const OwnedTensor& mu, const OwnedTensor& scale,
                        const OwnedTensor& noise = {}, double sigma = 0.0, const OwnedTensor& valid = {}) {
  const std::int64_t leaves = x.shape()[0], groups = x.shape()[1], tokens = x.shape()[2], slots = mu.shape()[1];
  const Shape weights{leaves, groups, tokens, slots};
  SoftWeights w{OwnedTensor(ops.real(), {leaves, groups, tokens}), OwnedTensor(ops.real(), {slots}),
                OwnedTensor(ops.real(), weights), OwnedTensor(ops.real(), weights)};
  ops.soft_router_forward({.x = x,
                           .mu = mu,
                           .scale = scale,
                           .noise = noise,
                           .noise_std = sigma,
                           .valid = valid,
                           .x_rnorm = w.x_rnorm,
                           .mu_rnorm = w.mu_rnorm,
                           .dispatch = w.dispatch,
                           .combine = w.combine});
  return w;
}

class ReferenceSoftRouter : public ::testing::Test {
 protected:
  std::unique_ptr<Ops> ops_ = make_reference_ops();
};

TEST_F(ReferenceSoftRouter, WeighsByCosinesTimesScale) {
  // Tokens (3, 4) and (0, 2), slots along both axes: cosines (.6, .8) and (0, 1), to the 1e-6 in the norms.
  const OwnedTensor x(Dtype::f64, {1, 1, 2, 2}, {3, 4, 0, 2}), mu(Dtype::f64, {2, 2}, {5, 0, 0, .5});
  const OwnedTensor scale(Dtype::f64, {1}, {10});
  const SoftWeights w = soft_router(*ops_, x, mu, scale);
  EXPECT_NEAR(w.x_rnorm.get(0), 1 / std::sqrt(25 + 1e-6), 1e-15);
  EXPECT_NEAR(w.mu_rnorm.get(1), 1 / std::sqrt(.25 + 1e-6), 1e-15);
  const auto share = [](double z, double other) { return 1 / (1 + std::exp(other - z)); };
  // z = ((6, 8), (0, 10)): over tokens by columns, over slots by rows.
  const double dispatch[] = {share(6, 0), share(8, 10), share(0, 6), share(10, 8)};
  const double combine[] = {share(6, 8), share(8, 6), share(0, 10), share(10, 0)};
  for (std::int64_t i = 0; i < 4; ++i) {
    EXPECT_NEAR(w.dispatch.get(i), dispatch[i], 1e-5);
    EXPECT_NEAR(w.combine.get(i), combine[i], 1e-5);
  }
}

TEST_F(ReferenceSoftRouter, EqualTokensShareEverySlotAlike) {
  // The example of the original: x of ones, S = 8, D = 16, E = 5, C = round(8/5) = 2, so R = 10.
  OwnedTensor x(Dtype::f64, {1, 1, 8, 16});
  for (std::int64_t i = 0; i < x.elements(); ++i) x.set(i, 1.0);
  const OwnedTensor mu = random_tensor(Dtype::f64, {16, 10}, 1), scale(Dtype::f64, {1}, {1});
  const SoftWeights w = soft_router(*ops_, x, mu, scale);
  for (std::int64_t i = 0; i < w.dispatch.elements(); ++i) EXPECT_NEAR(w.dispatch.get(i), 1.0 / 8, 1e-15);
  for (std::int64_t s = 0; s < 8; ++s) {
    double sum = 0.0;
    for (std::int64_t r = 0; r < 10; ++r) sum += w.combine.get(s * 10 + r);
    EXPECT_NEAR(sum, 1.0, 1e-15);
  }
}

TEST_F(ReferenceSoftRouter, OnlyTheDirectionOfMuAndOfTokensMatters) {
  const OwnedTensor x = random_tensor(Dtype::f64, {1, 2, 5, 7}, 1), mu = random_tensor(Dtype::f64, {7, 3}, 2);
  const OwnedTensor scale(Dtype::f64, {1}, {2});
  OwnedTensor longer = x, shorter = mu;
  for (std::int64_t i = 0; i < x.elements(); ++i) longer.set(i, 3.0 * x.get(i));
  for (std::int64_t i = 0; i < mu.elements(); ++i) shorter.set(i, 0.5 * mu.get(i));
  const SoftWeights w = soft_router(*ops_, x, mu, scale), other = soft_router(*ops_, longer, shorter, scale);
  EXPECT_LT(largest_difference(w.dispatch, other.dispatch), 1e-5);
  EXPECT_LT(largest_difference(w.combine, other.combine), 1e-5);
}

TEST_F(ReferenceSoftRouter, AddsNoiseToTheLogits) {
  // x = 0: the logits are the noise times sigma.
  const OwnedTensor x(Dtype::f64, {1, 1, 2, 1}, {0, 0}), mu(Dtype::f64, {1, 2}, {1, 2}), scale(Dtype::f64, {1}, {1});
  const OwnedTensor noise(Dtype::f64, {1, 1, 2, 2}, {std::log(3.0), 0, 0, 0});
  const SoftWeights w = soft_router(*ops_, x, mu, scale, noise, 2.0);
  const double dispatch[] = {.9, .5, .1, .5}, combine[] = {.9, .1, .5, .5};
  for (std::int64_t i = 0; i < 4; ++i) {
    EXPECT_NEAR(w.dispatch.get(i), dispatch[i], 1e-15);
    EXPECT_NEAR(w.combine.get(i), combine[i], 1e-15);
  }
}

TEST_F(ReferenceSoftRouter, PaddingIsInNoSlot) {
  const OwnedTensor mu = random_tensor(Dtype::f64, {3, 4}, 1), scale(Dtype::f64, {1}, {3});
  const OwnedTensor x = random_tensor(Dtype::f64, {1, 2, 3, 3}, 2);
  const OwnedTensor valid(Dtype::u8, {1, 2, 3}, {1, 0, 1, 0, 0, 0});
  const SoftWeights w = soft_router(*ops_, x, mu, scale, {}, 0.0, valid);
  OwnedTensor two(Dtype::f64, {1, 1, 2, 3});  // the two valid tokens alone
  for (std::int64_t c = 0; c < 3; ++c) {
    two.set(c, x.get(c));
    two.set(3 + c, x.get(6 + c));
  }
  const SoftWeights alone = soft_router(*ops_, two, mu, scale);
  for (std::int64_t r = 0; r < 4; ++r) {
    EXPECT_EQ(w.dispatch.get(r), alone.dispatch.get(r));
    EXPECT_EQ(w.dispatch.get(4 + r), 0.0);
    EXPECT_EQ(w.dispatch.get(8 + r), alone.dispatch.get(4 + r));
    for (std::int64_t s = 3; s < 6; ++s) EXPECT_EQ(w.dispatch.get(s * 4 + r), 0.0) << "a group of padding";
  }
}

TEST_F(ReferenceSoftRouter, SlotsAreMixturesOfTokensAndTokensOfSlots) {
  // One group, S = 2, R = 3, D = 2.
  const OwnedTensor w(Dtype::f64, {1, 2, 3}, {1, 2, 3, 4, 5, 6}), x(Dtype::f64, {1, 2, 2}, {1, 10, 2, 20});
  OwnedTensor y(Dtype::f64, {1, 3, 2});
  ops_->mix_tokens_forward({.x = x, .w = w, .y = y});
  EXPECT_EQ(y.values(), (std::vector<double>{9, 90, 12, 120, 15, 150}));
  const OwnedTensor o(Dtype::f64, {1, 3, 2}, {1, 0, 0, 1, 1, 1});
  OwnedTensor out = x;
  ops_->mix_slots_forward({.o = o, .w = w, .residual = out, .y = out});
  EXPECT_EQ(out.values(), (std::vector<double>{1 + 4, 10 + 5, 2 + 10, 20 + 11}));
}

// --- gradients -------------------------------------------------------------------------------------------------------

struct Variant {
  std::int64_t leaves, groups, tokens, width, slots;
  bool noise, padding, residual;
};
void PrintTo(const Variant& v, std::ostream* out) {
  *out << "leaves " << v.leaves << ", groups " << v.groups << ", S " << v.tokens << ", D " << v.width << ", R "
       << v.slots << (v.noise ? ", noise" : "") << (v.padding ? ", padding" : "") << (v.residual ? ", residual" : "");
}
class ReferenceSoftGradients : public ::testing::TestWithParam<Variant> {
 protected:
  [[nodiscard]] Shape x_shape() const { return {v_.leaves, v_.groups, v_.tokens, v_.width}; }
  [[nodiscard]] Shape w_shape() const { return {v_.leaves, v_.groups, v_.tokens, v_.slots}; }
  [[nodiscard]] Shape slots_shape() const { return {v_.leaves * v_.groups, v_.slots, v_.width}; }
  /// All groups of all leaves in one row.
  [[nodiscard]] Shape flat(const Shape& shape) const { return {v_.leaves * v_.groups, v_.tokens, shape[3]}; }
  [[nodiscard]] SoftWeights weights(Ops& ops, Tensors& in) const {
    OwnedTensor noise = v_.noise ? random_tensor(ops.real(), w_shape(), 77) : OwnedTensor();
    OwnedTensor valid;
    if (v_.padding) {  // every third token, and all of the first group
      valid = OwnedTensor(Dtype::u8, {v_.leaves, v_.groups, v_.tokens});
      for (std::int64_t i = 0; i < valid.elements(); ++i) valid.set(i, i < v_.tokens || i % 3 == 1 ? 0 : 1);
    }
    return soft_router(ops, in["x"], in["mu"], in["scale"], noise, 0.3, valid);
  }
  [[nodiscard]] Tensors router_inputs() const {
    Tensors in;
    in["x"] = random_tensor(Dtype::f64, x_shape(), 1);
    in["mu"] = random_tensor(Dtype::f64, {v_.width, v_.slots}, 2);
    in["scale"] = OwnedTensor(Dtype::f64, {1}, {1.5});
    return in;
  }
  /// In place where the verb allows it.
  void backward(Ops& ops, Tensors& in, const SoftWeights& w, OwnedTensor& ddispatch, const OwnedTensor& dcombine,
                const OwnedTensor& dresidual, Tensors& gradient) const {
    for (const char* name : {"x", "mu", "scale"}) gradient[name] = OwnedTensor(Dtype::f64, in[name].shape());
    if (dresidual) gradient["x"] = dresidual;
    ops.soft_router_backward({.ddispatch = ddispatch,
                              .dcombine = dcombine,
                              .x = in["x"],
                              .mu = in["mu"],
                              .scale = in["scale"],
                              .x_rnorm = w.x_rnorm,
                              .mu_rnorm = w.mu_rnorm,
                              .dispatch = w.dispatch,
                              .combine = w.combine,
                              .dlogits = ddispatch,
                              .dresidual = dresidual ? ConstTensor(gradient["x"]) : ConstTensor(),
                              .dx = gradient["x"],
                              .dmu = gradient["mu"],
                              .dscale = gradient["scale"]});
  }

  Variant v_ = GetParam();
};

TEST_P(ReferenceSoftGradients, BackwardOfTheRouterIsTheDerivative) {
  GradientCase test;
  test.inputs = router_inputs();
  test.forward = [this](Ops& ops, Tensors in) {
    SoftWeights w = weights(ops, in);
    Tensors out;
    out["dispatch"] = w.dispatch;
    out["combine"] = w.combine;
    if (v_.residual) out["x passed on"] = in["x"];
    return out;
  };
  test.backward = [this](Ops& ops, Tensors in, const Tensors&, Tensors cotangent) {
    const SoftWeights w = weights(ops, in);
    Tensors gradient;
    backward(ops, in, w, cotangent["dispatch"], cotangent["combine"], cotangent["x passed on"], gradient);
    return gradient;
  };
  check_gradients(test);
}

TEST_P(ReferenceSoftGradients, BackwardOfTheWholeLayerIsTheDerivative) {
  // slots = dispatch^T x;  o = slots * factor;  y = residual + combine o
  GradientCase test;
  test.inputs = router_inputs();
  test.inputs["factor"] = random_tensor(Dtype::f64, slots_shape(), 4);
  if (v_.residual) test.inputs["residual"] = random_tensor(Dtype::f64, flat(x_shape()), 5);
  const auto multiply = [](const OwnedTensor& a, const OwnedTensor& b) {
    OwnedTensor product = a;
    for (std::int64_t i = 0; i < a.elements(); ++i) {
      if (a.dtype() == Dtype::f64) {
        product.as<double>()[i] *= b.as<double>()[i];
      } else {
        product.as<std::complex<double>>()[i] *= b.as<std::complex<double>>()[i];
      }
    }
    return product;
  };
  const auto slots_of = [this](Ops& ops, Tensors& in, const SoftWeights& w) {
    OwnedTensor slots(ops.real(), slots_shape());
    ops.mix_tokens_forward(
        {.x = in["x"].view().view(flat(x_shape())), .w = w.dispatch.view().view(flat(w_shape())), .y = slots});
    return slots;
  };
  test.forward = [=, this](Ops& ops, Tensors in) {
    const SoftWeights w = weights(ops, in);
    const OwnedTensor o = multiply(slots_of(ops, in, w), in["factor"]);
    Tensors out;
    out["y"] = OwnedTensor(ops.real(), flat(x_shape()));
    ops.mix_slots_forward(
        {.o = o, .w = w.combine.view().view(flat(w_shape())), .residual = in["residual"], .y = out["y"]});
    return out;
  };
  test.backward = [=, this](Ops& ops, Tensors in, const Tensors&, Tensors cotangent) {
    const SoftWeights w = weights(ops, in);
    const OwnedTensor slots = slots_of(ops, in, w), o = multiply(slots, in["factor"]);
    OwnedTensor dcombine(Dtype::f64, w_shape()), d_o(Dtype::f64, slots_shape()), ddispatch(Dtype::f64, w_shape()),
        dx(Dtype::f64, x_shape());
    ops.mix_slots_backward({.dy = cotangent["y"],
                            .o = o,
                            .w = w.combine.view().view(flat(w_shape())),
                            .dw = dcombine.view().view(flat(w_shape())),
                            .d_o = d_o});
    ops.mix_tokens_backward({.dy = multiply(d_o, in["factor"]),
                             .x = in["x"].view().view(flat(x_shape())),
                             .w = w.dispatch.view().view(flat(w_shape())),
                             .dw = ddispatch.view().view(flat(w_shape())),
                             .dx = dx.view().view(flat(x_shape()))});
    Tensors gradient;
    backward(ops, in, w, ddispatch, dcombine, dx, gradient);
    gradient["factor"] = multiply(d_o, slots);
    gradient["residual"] = cotangent["y"];
    return gradient;
  };
  check_gradients(test);
}

INSTANTIATE_TEST_SUITE_P(Variants, ReferenceSoftGradients,
                         ::testing::Values(Variant{1, 1, 3, 4, 2, false, false, false},
                                           Variant{1, 2, 4, 3, 5, true, true, true},
                                           Variant{4, 2, 3, 2, 3, true, false, true},
                                           Variant{2, 1, 1, 5, 1, false, false, true},
                                           Variant{2, 3, 5, 1, 4, true, true, false}));

}  // namespace
}  // namespace vitrail::testing
