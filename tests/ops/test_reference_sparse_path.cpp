// The whole sparse path against complex-step derivatives: route, gather, experts of one factor per row, combine,
// losses.

#include "tests/ops/router_calls.hpp"

namespace vitrail::testing {
namespace {

enum class Router : std::uint8_t { top_k, normalized_top_k, experts_choice };

struct RouterVariant {
  Router router;
  std::int64_t leaves, groups, tokens, experts, choices, capacity, owners;
  bool noise;
  TokenOrder order;
  LossScales scales = {};
};

void PrintTo(const RouterVariant& v, std::ostream* out) {
  const char* const names[] = {"top-k", "normalized top-k", "experts choice"};
  *out << names[static_cast<int>(v.router)] << ", leaves " << v.leaves << ", groups " << v.groups << ", S " << v.tokens
       << ", E " << v.experts << ", K " << v.choices << ", C " << v.capacity << ", owners " << v.owners << ", noise "
       << v.noise;
}

class ReferenceSparsePath : public ::testing::TestWithParam<RouterVariant> {
 protected:
  static constexpr std::int64_t kWidth = 2;
  static constexpr double kSigma = 0.4;

  [[nodiscard]] std::int64_t all_tokens() const { return v_.leaves * v_.groups * v_.tokens; }
  [[nodiscard]] Shape rows_shape() const {
    return {v_.owners, v_.leaves, v_.experts / v_.owners, v_.groups * v_.capacity};
  }
  [[nodiscard]] std::int64_t rows() const { return rows_shape().elements(); }
  [[nodiscard]] Shape by_token() const { return {all_tokens(), v_.choices}; }
  [[nodiscard]] OwnedTensor noise(Dtype real) const {
    const Shape shape{v_.leaves * v_.groups, v_.tokens, v_.experts};
    return v_.noise ? random_tensor(real, shape, 77) : OwnedTensor();
  }

  struct Path {
    Routing r;
    OwnedTensor source, row, weight, buffer, o;
    Tensors out;
  };
  // y = residual + sum of weight * o, o = buffer * factor, buffer = rows of x; weight = the gates, or normalized ones
  Path forward(Ops& ops, Tensors& in) const {
    const bool of_experts = v_.router == Router::experts_choice;
    Path p{of_experts ? choose_tokens(ops, in["logits"], noise(ops.real()), kSigma, {}, v_.capacity)
                      : route(ops, in["logits"], noise(ops.real()), kSigma, v_.choices, v_.order),
           OwnedTensor(Dtype::i32, rows_shape()),
           OwnedTensor(Dtype::i32, {v_.leaves, v_.groups, v_.tokens, v_.choices}),
           OwnedTensor(ops.real(), by_token()),
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
    const ConstTensor gate = p.r.gate.view().view(by_token());
    if (v_.router == Router::normalized_top_k)
      ops.normalize_gates_forward({.gate = gate, .row = p.row.view().view(by_token()), .y = p.weight});
    if (!of_experts) p.out = losses(ops, in["logits"], noise(ops.real()), kSigma, p.r);
    p.out["y"] = OwnedTensor(ops.real(), {all_tokens(), kWidth});
    ops.combine_rows_forward({.o = p.o,
                              .row = p.row.view().view(by_token()),
                              .gate = v_.router == Router::normalized_top_k ? ConstTensor(p.weight) : gate,
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
    const bool normalized = v_.router == Router::normalized_top_k;
    const ConstTensor row = p.row.view().view(by_token()), gate = p.r.gate.view().view(by_token());
    OwnedTensor d_o(Dtype::f64, {rows(), kWidth}), dgate(Dtype::f64, p.r.gate.shape());
    OwnedTensor dbuffer(Dtype::f64, {rows(), kWidth});
    Tensors gradient;
    for (const auto& [name, input] : in) gradient[name] = OwnedTensor(Dtype::f64, input.shape());
    const Tensor dweight = dgate.view().view(by_token());
    ops.combine_rows_backward({.dy = cotangent["y"],
                               .o = p.o,
                               .row = row,
                               .source = p.source.view().view({rows()}),
                               .gate = normalized ? ConstTensor(p.weight) : gate,
                               .d_o = d_o,
                               .dgate = dweight});
    if (normalized)
      ops.normalize_gates_backward({.dy = dweight, .gate = gate, .row = row, .y = p.weight, .dgate = dweight});
    multiply(d_o, p.buffer, gradient["factor"]);
    multiply(d_o, in["factor"], dbuffer);
    ops.gather_rows_backward({.dy = dbuffer, .row = row, .dresidual = cotangent["x passed on"], .dx = gradient["x"]});
    gradient["logits"] = logits_gradient(ops, in["logits"], noise(Dtype::f64), kSigma, p.r, dgate, v_.scales);
    gradient["residual"] = cotangent["y"];
    return gradient;
  }

  RouterVariant v_ = GetParam();
};

TEST_P(ReferenceSparsePath, BackwardIsTheDerivative) {
  GradientCase test;
  test.inputs["logits"] = random_tensor(Dtype::f64, {v_.leaves * v_.groups, v_.tokens, v_.experts}, 1);
  test.inputs["x"] = random_tensor(Dtype::f64, {all_tokens(), kWidth}, 2);
  test.inputs["factor"] = random_tensor(Dtype::f64, {rows(), kWidth}, 3);
  test.inputs["residual"] = random_tensor(Dtype::f64, {all_tokens(), kWidth}, 4);
  test.forward = [this](Ops& ops, Tensors in) { return forward(ops, in).out; };
  test.backward = [this](Ops& ops, Tensors in, const Tensors&, Tensors cotangent) {
    return backward(ops, in, cotangent);
  };
  const std::pair<const char*, double> scales[] = {
      {"importance", v_.scales.importance}, {"load", v_.scales.load}, {"gshard", v_.scales.gshard}, {"z", v_.scales.z}};
  for (const auto& [name, scale] : scales) {
    test.cotangents[name] = zeros({v_.leaves * v_.groups});
    for (std::int64_t g = 0; g < v_.leaves * v_.groups; ++g) test.cotangents[name].set(g, scale);
  }
  check_gradients(test);
}

using enum TokenOrder;
constexpr LossScales kAll{.importance = 0.7, .load = 0.9, .gshard = 1.3, .z = 0.6};
INSTANTIATE_TEST_SUITE_P(
    TopK, ReferenceSparsePath,
    ::testing::Values(RouterVariant{Router::top_k, 1, 2, 6, 4, 2, 2, 1, true, vanilla, {.importance = 0.7}},
                      RouterVariant{Router::top_k, 1, 2, 6, 4, 2, 2, 1, true, vanilla, {.load = 0.9}},
                      RouterVariant{Router::top_k, 1, 2, 6, 4, 2, 2, 1, true, vanilla, {.gshard = 1.3}},
                      RouterVariant{Router::top_k, 1, 2, 6, 4, 2, 2, 1, true, vanilla, {.z = 0.6}},
                      RouterVariant{Router::top_k, 4, 2, 5, 4, 2, 2, 2, true, prioritized, kAll},
                      RouterVariant{Router::top_k, 2, 1, 5, 4, 4, 3, 4, true, prioritized_sum, kAll},
                      RouterVariant{Router::top_k, 1, 2, 5, 3, 1, 1, 3, false, reversed, kAll},
                      RouterVariant{Router::top_k, 1, 1, 4, 1, 1, 3, 1, true, random, kAll}));
INSTANTIATE_TEST_SUITE_P(NormalizedTopK, ReferenceSparsePath,
                         ::testing::Values(RouterVariant{Router::normalized_top_k, 1, 2, 6, 4, 2, 2, 1, true, vanilla},
                                           RouterVariant{Router::normalized_top_k, 2, 2, 5, 4, 3, 2, 2, true,
                                                         prioritized, kAll}));
// Of experts that choose there are no losses, and K = E.
INSTANTIATE_TEST_SUITE_P(ExpertsChoice, ReferenceSparsePath,
                         ::testing::Values(RouterVariant{Router::experts_choice, 1, 2, 6, 4, 4, 2, 1, true, vanilla},
                                           RouterVariant{Router::experts_choice, 2, 2, 5, 4, 4, 3, 2, false, vanilla},
                                           RouterVariant{Router::experts_choice, 2, 1, 3, 3, 3, 3, 3, true, vanilla},
                                           RouterVariant{Router::experts_choice, 1, 1, 4, 1, 1, 1, 1, true, vanilla}));

}  // namespace
}  // namespace vitrail::testing
