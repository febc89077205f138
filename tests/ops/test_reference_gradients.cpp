// Backward verbs of the dense layers and the losses against complex-step derivatives of their forward verbs.
// Outputs are full of NaN before every call, so these tests also see a gradient that is added to, or left out.

#include "tests/ops/gradient_check.hpp"

namespace vitrail::testing {
namespace {

OwnedTensor f64(Shape shape, std::uint32_t stream) { return random_tensor(Dtype::f64, shape, stream); }

// Leaves and experts of a case, and whether optional tensors are there.
struct Variant {
  std::int64_t leaves, experts;
  bool optional;
};
class ReferenceGradients : public ::testing::TestWithParam<Variant> {};
INSTANTIATE_TEST_SUITE_P(Variants, ReferenceGradients,
                         ::testing::Values(Variant{1, 1, true}, Variant{1, 3, false}, Variant{4, 1, false},
                                           Variant{4, 3, true}),
                         [](const auto& tested) {
                           return text("leaves", tested.param.leaves, "_experts", tested.param.experts,
                                       tested.param.optional ? "_with" : "_without", "_optional");
                         });

TEST_P(ReferenceGradients, EmbedTokensBackwardIsTheDerivative) {
  const std::int64_t leaves = GetParam().leaves;
  const bool optional = GetParam().optional;
  const std::int64_t images = 2, patches = 3, width = 4, tokens = patches + (optional ? 1 : 0);
  GradientCase test;
  test.inputs["patches"] = f64({leaves, images, patches, width}, 1);
  if (optional) test.inputs["class_token"] = f64({width}, 2);
  // Positions without a class token are as possible as both or neither.
  if (optional || leaves == 4) test.inputs["positions"] = f64({tokens, width}, 3);
  test.forward = [=](Ops& ops, Tensors in) {
    Tensors out;
    out["x"] = OwnedTensor(ops.real(), {leaves, images, tokens, width});
    ops.embed_tokens_forward(
        {.patches = in["patches"], .class_token = in["class_token"], .positions = in["positions"], .x = out["x"]});
    return out;
  };
  test.backward = [=](Ops& ops, const Tensors& in, const Tensors&, Tensors cotangent) {
    Tensors gradient;
    for (const auto& [name, input] : in) gradient[name] = OwnedTensor(Dtype::f64, input.shape());
    ops.embed_tokens_backward({.dx = cotangent["x"],
                               .dpatches = gradient["patches"],
                               .dclass_token = gradient["class_token"],
                               .dpositions = gradient["positions"]});
    return gradient;
  };
  check_gradients(test);
}

TEST_P(ReferenceGradients, LayernormBackwardIsTheDerivative) {
  const std::int64_t leaves = GetParam().leaves;
  const std::int64_t experts = GetParam().experts;
  const bool optional = GetParam().optional;
  const Shape shape{leaves, 3, 5};
  const bool bias = experts == 3;
  GradientCase test;
  test.inputs["x"] = f64(shape, 1);
  test.inputs["scale"] = f64({5}, 2);
  if (bias) test.inputs["bias"] = f64({5}, 3);
  test.forward = [=](Ops& ops, Tensors in) {
    OwnedTensor mean(ops.real(), {leaves, 3}), rstd(ops.real(), {leaves, 3});
    Tensors out;
    out["y"] = OwnedTensor(ops.real(), shape);
    ops.layernorm_forward(
        {.x = in["x"], .scale = in["scale"], .bias = in["bias"], .y = out["y"], .mean = mean, .rstd = rstd});
    if (optional) out["residual"] = in["x"];
    return out;
  };
  test.backward = [=](Ops& ops, Tensors in, const Tensors&, Tensors cotangent) {
    Tensors gradient;
    for (const auto& [name, input] : in) gradient[name] = OwnedTensor(Dtype::f64, input.shape());
    OwnedTensor y(Dtype::f64, shape), mean(Dtype::f64, {leaves, 3}), rstd(Dtype::f64, {leaves, 3});
    ops.layernorm_forward({.x = in["x"], .scale = in["scale"], .bias = in["bias"], .y = y, .mean = mean, .rstd = rstd});
    ops.layernorm_backward({.dy = cotangent["y"],
                            .x = in["x"],
                            .scale = in["scale"],
                            .mean = mean,
                            .rstd = rstd,
                            .dresidual = cotangent["residual"],
                            .dx = gradient["x"],
                            .dscale = gradient["scale"],
                            .dbias = gradient["bias"]});
    return gradient;
  };
  check_gradients(test);
}

TEST_P(ReferenceGradients, LinearBackwardIsTheDerivative) {
  const std::int64_t leaves = GetParam().leaves;
  const std::int64_t experts = GetParam().experts;
  const bool optional = GetParam().optional;
  const std::int64_t rows = 2, in_width = 3, out_width = 4;
  const Shape y_shape{leaves, experts, rows, out_width};
  GradientCase test;
  test.inputs["x"] = f64({leaves, experts, rows, in_width}, 1);
  test.inputs["w"] = f64({experts, in_width, out_width}, 2);
  if (optional) test.inputs["b"] = f64({experts, out_width}, 3);
  if (optional) test.inputs["residual"] = f64(y_shape, 4);
  test.forward = [=](Ops& ops, Tensors in) {
    Tensors out;
    out["y"] = OwnedTensor(ops.real(), y_shape);
    ops.linear_forward({.x = in["x"], .w = in["w"], .b = in["b"], .residual = in["residual"], .y = out["y"]});
    if (optional) out["x passed on"] = in["x"];
    return out;
  };
  test.backward = [=](Ops& ops, Tensors in, const Tensors&, Tensors cotangent) {
    Tensors gradient;
    for (const auto& [name, input] : in) gradient[name] = OwnedTensor(Dtype::f64, input.shape());
    ops.linear_backward({.dy = cotangent["y"],
                         .x = in["x"],
                         .w = in["w"],
                         .dresidual = cotangent["x passed on"],
                         .dx = gradient["x"],
                         .dw = gradient["w"],
                         .db = gradient["b"]});
    if (optional) gradient["residual"] = cotangent["y"];
    return gradient;
  };
  check_gradients(test);
}

TEST_P(ReferenceGradients, MlpBackwardIsTheDerivative) {
  const std::int64_t leaves = GetParam().leaves;
  const std::int64_t experts = GetParam().experts;
  const bool optional = GetParam().optional;
  const std::int64_t rows = 2, width = 3, hidden = 4;
  const Shape x_shape{leaves, experts, rows, width}, u_shape{leaves, experts, rows, hidden};
  GradientCase test;
  test.inputs["x"] = f64(x_shape, 1);
  test.inputs["w1"] = f64({experts, width, hidden}, 2);
  test.inputs["b1"] = f64({experts, hidden}, 3);
  test.inputs["w2"] = f64({experts, hidden, width}, 4);
  test.inputs["b2"] = f64({experts, width}, 5);
  if (optional) test.inputs["residual"] = f64(x_shape, 6);
  const OwnedTensor mask = experts == 3 ? f64(u_shape, 7) : OwnedTensor();
  const auto forward = [=](Ops& ops, Tensors& in, OwnedTensor& u) {
    Tensors out;
    u = OwnedTensor(ops.real(), u_shape);
    OwnedTensor h(ops.real(), u_shape);
    const OwnedTensor factors = mask.to(ops.real());
    out["y"] = OwnedTensor(ops.real(), x_shape);
    ops.mlp_forward({.x = in["x"],
                     .w1 = in["w1"],
                     .b1 = in["b1"],
                     .w2 = in["w2"],
                     .b2 = in["b2"],
                     .hidden_mask = factors,
                     .residual = in["residual"],
                     .u = u,
                     .h = h,
                     .y = out["y"]});
    return out;
  };
  test.forward = [=](Ops& ops, Tensors in) {
    OwnedTensor u;
    return forward(ops, in, u);
  };
  test.backward = [=](Ops& ops, Tensors in, const Tensors&, Tensors cotangent) {
    OwnedTensor u, h(Dtype::f64, u_shape), du(Dtype::f64, u_shape);
    forward(ops, in, u);
    Tensors gradient;
    for (const auto& [name, input] : in) gradient[name] = OwnedTensor(Dtype::f64, input.shape());
    ops.mlp_backward({.dy = cotangent["y"],
                      .x = in["x"],
                      .u = u,
                      .w1 = in["w1"],
                      .w2 = in["w2"],
                      .hidden_mask = mask,
                      .h = h,
                      .du = du,
                      .dx = gradient["x"],
                      .dw1 = gradient["w1"],
                      .db1 = gradient["b1"],
                      .dw2 = gradient["w2"],
                      .db2 = gradient["b2"]});
    if (optional) gradient["residual"] = cotangent["y"];
    return gradient;
  };
  check_gradients(test);
}

TEST_P(ReferenceGradients, QkvBackwardIsTheDerivative) {
  const std::int64_t leaves = GetParam().leaves;
  const std::int64_t rows = 3, width = 2, heads_width = 4;
  const Shape y_shape{leaves, rows, heads_width};
  GradientCase test;
  test.inputs["x"] = f64({leaves, rows, width}, 1);
  std::uint32_t stream = 1;
  for (const char* name : {"wq", "wk", "wv"}) test.inputs[name] = f64({width, heads_width}, ++stream);
  for (const char* name : {"bq", "bk", "bv"}) test.inputs[name] = f64({heads_width}, ++stream);
  test.forward = [=](Ops& ops, Tensors in) {
    Tensors out;
    for (const char* name : {"q", "k", "v"}) out[name] = OwnedTensor(ops.real(), y_shape);
    ops.qkv_forward({.x = in["x"],
                     .wq = in["wq"],
                     .wk = in["wk"],
                     .wv = in["wv"],
                     .bq = in["bq"],
                     .bk = in["bk"],
                     .bv = in["bv"],
                     .q = out["q"],
                     .k = out["k"],
                     .v = out["v"]});
    return out;
  };
  test.backward = [=](Ops& ops, Tensors in, const Tensors&, Tensors cotangent) {
    Tensors gradient;
    for (const auto& [name, input] : in) gradient[name] = OwnedTensor(Dtype::f64, input.shape());
    ops.qkv_backward({.dq = cotangent["q"],
                      .dk = cotangent["k"],
                      .dv = cotangent["v"],
                      .x = in["x"],
                      .wq = in["wq"],
                      .wk = in["wk"],
                      .wv = in["wv"],
                      .dx = gradient["x"],
                      .dwq = gradient["wq"],
                      .dwk = gradient["wk"],
                      .dwv = gradient["wv"],
                      .dbq = gradient["bq"],
                      .dbk = gradient["bk"],
                      .dbv = gradient["bv"]});
    return gradient;
  };
  check_gradients(test);
}

TEST_P(ReferenceGradients, AttentionBackwardIsTheDerivative) {
  const std::int64_t leaves = GetParam().leaves;
  const std::int64_t experts = GetParam().experts;
  const bool optional = GetParam().optional;
  const std::int64_t images = 2, tokens = 4, heads = experts, head_width = 3;
  const std::int64_t queries = optional ? tokens : experts;  // as many, one, or three
  const Shape q_shape{leaves, images, queries, heads, head_width}, k_shape{leaves, images, tokens, heads, head_width};
  const DropoutDraw dropout{.rate = leaves == 4 ? 0.3 : 0.0, .seed = 5, .step = 6, .layer = 7, .first = 8};
  GradientCase test;
  test.inputs["q"] = f64(q_shape, 1);
  test.inputs["k"] = f64(k_shape, 2);
  test.inputs["v"] = f64(k_shape, 3);
  const auto forward = [=](Ops& ops, Tensors& in, OwnedTensor& lse) {
    Tensors out;
    out["out"] = OwnedTensor(ops.real(), q_shape);
    lse = OwnedTensor(ops.real(), {leaves, images, heads, queries});
    ops.attention_forward(
        {.q = in["q"], .k = in["k"], .v = in["v"], .dropout = dropout, .out = out["out"], .log_sum_exp = lse});
    return out;
  };
  test.forward = [=](Ops& ops, Tensors in) {
    OwnedTensor lse;
    return forward(ops, in, lse);
  };
  test.backward = [=](Ops& ops, Tensors in, Tensors out, Tensors cotangent) {
    OwnedTensor lse;
    forward(ops, in, lse);
    Tensors gradient;
    for (const auto& [name, input] : in) gradient[name] = OwnedTensor(Dtype::f64, input.shape());
    ops.attention_backward({.dout = cotangent["out"],
                            .q = in["q"],
                            .k = in["k"],
                            .v = in["v"],
                            .dropout = dropout,
                            .out = out["out"],
                            .log_sum_exp = lse,
                            .dq = gradient["q"],
                            .dk = gradient["k"],
                            .dv = gradient["v"]});
    return gradient;
  };
  check_gradients(test);
}

TEST(ReferenceGradient, TakeTokenBackwardIsTheDerivative) {
  GradientCase test;
  test.inputs["x"] = f64({3, 4, 2}, 1);
  test.forward = [](Ops& ops, Tensors in) {
    Tensors out;
    out["y"] = OwnedTensor(ops.real(), {3, 2});
    ops.take_token_forward({.x = in["x"], .y = out["y"]});
    return out;
  };
  test.backward = [](Ops& ops, const Tensors&, const Tensors&, Tensors cotangent) {
    Tensors gradient;
    gradient["x"] = OwnedTensor(Dtype::f64, {3, 4, 2});
    ops.take_token_backward({.dy = cotangent["y"], .dx = gradient["x"]});
    return gradient;
  };
  check_gradients(test);
}

TEST(ReferenceGradient, TanhBackwardIsTheDerivative) {
  GradientCase test;
  test.inputs["x"] = f64({7}, 1);
  test.forward = [](Ops& ops, Tensors in) {
    Tensors out;
    out["y"] = OwnedTensor(ops.real(), {7});
    ops.tanh_forward({.x = in["x"], .y = out["y"]});
    return out;
  };
  test.backward = [](Ops& ops, const Tensors&, Tensors out, Tensors cotangent) {
    Tensors gradient;
    gradient["x"] = OwnedTensor(Dtype::f64, {7});
    ops.tanh_backward({.dy = cotangent["y"], .y = out["y"], .dx = gradient["x"]});
    return gradient;
  };
  check_gradients(test);
}

// Both cross entropies: dlogits is scale times the derivative of every loss.
template <class Arguments, class Run>
void check_cross_entropy(const Run& run) {
  const std::int64_t images = 3, classes = 5;
  const double scale = 0.37;
  const OwnedTensor targets = f64({images, classes}, 2);  // soft, negative, not normalised: still the derivative
  GradientCase test;
  test.inputs["logits"] = random_tensor(Dtype::f64, {images, classes}, 1, 3.0);
  test.forward = [&](Ops& ops, Tensors in) {
    Tensors out;
    out["loss"] = OwnedTensor(ops.real(), {images});
    Arguments a;
    const OwnedTensor y = targets.to(ops.real());
    a.logits = in["logits"];
    a.targets = y;
    a.scale = scale;
    a.loss = out["loss"];
    run(ops, a);
    return out;
  };
  test.cotangents["loss"] = OwnedTensor(Dtype::f64, {images}, {scale, scale, scale});
  test.backward = [&](Ops& ops, Tensors in, const Tensors&, const Tensors&) {
    OwnedTensor loss(Dtype::f64, {images});
    Tensors gradient;
    gradient["logits"] = OwnedTensor(Dtype::f64, {images, classes});
    Arguments a;
    a.logits = in["logits"];
    a.targets = targets;
    a.scale = scale;
    a.loss = loss;
    a.dlogits = gradient["logits"];
    run(ops, a);
    return gradient;
  };
  check_gradients(test);
}

TEST(ReferenceGradient, SoftmaxCrossEntropyGivesTheDerivative) {
  check_cross_entropy<SoftmaxCrossEntropy>([](Ops& ops, const auto& a) { ops.softmax_cross_entropy(a); });
}

TEST(ReferenceGradient, SigmoidCrossEntropyGivesTheDerivative) {
  check_cross_entropy<SigmoidCrossEntropy>([](Ops& ops, const auto& a) { ops.sigmoid_cross_entropy(a); });
}

}  // namespace
}  // namespace vitrail::testing
