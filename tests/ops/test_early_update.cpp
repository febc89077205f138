// Weights that are updated where their gradients are made: the same bits as the gradient and AdamW after it.

#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "tests/errors.hpp"
#include "tests/ops/mlp_calls.hpp"

namespace vitrail::testing {
namespace {

struct EarlyCase {
  std::string name;
  Dtype real;
  int threads;  // 0: the reference
  Precision precision;
  MlpSizes sizes;
};
std::ostream& operator<<(std::ostream& out, const EarlyCase& one) { return out << one.name; }

std::unique_ptr<Ops> ops_of(const EarlyCase& c) {
  return c.threads == 0 ? make_reference_ops() : make_cpu_ops(c.threads, c.precision);
}

/// A weight with its moments.
struct Weight {
  OwnedTensor parameter, m, v;
  Weight(Dtype real, const OwnedTensor& value, std::uint32_t stream)
      : parameter(value.to(real)),
        m(random_tensor(real, value.shape(), stream)),
        v(random_tensor(real, value.shape(), stream + 1)) {
    for (std::int64_t i = 0; i < v.elements(); ++i) v.set(i, v.get(i) * v.get(i));
  }
};
bool same_bits(const Weight& a, const Weight& b) {
  return same_bits(a.parameter, b.parameter) && same_bits(a.m, b.m) && same_bits(a.v, b.v);
}

/// What a backward pass leaves; the weights are changed.
struct Left {
  OwnedTensor dx, db1, db2;
  Weight w1, w2;
};

constexpr double kRate = 0.01, kEpsilon = 1e-6;
constexpr std::int64_t kUpdates = 3;

AdamWStep later(Weight& weight, const OwnedTensor& gradient, const OwnedTensor& begin, const OwnedTensor& decay,
                const OwnedTensor& multiplier, const OwnedTensor& frozen) {
  const Shape flat{gradient.elements()};
  return {.gradient = gradient.view().view(flat),
          .block_begin = begin,
          .decay = decay,
          .multiplier = multiplier,
          .frozen = frozen,
          .learning_rate = kRate,
          .epsilon = kEpsilon,
          .updates = kUpdates,
          .parameter = weight.parameter.view().view(flat),
          .m = weight.m.view().view(flat),
          .v = weight.v.view().view(flat)};
}

/// Of the two weights one decays, the other is frozen.
Left run(const EarlyCase& c, bool early) {
  constexpr double kMultiplier = 0.5;
  const auto ops = ops_of(c);
  const MlpSizes& s = c.sizes;
  const Dtype real = c.real, stored = c.threads == 0 ? real : ops->stored();
  const Shape narrow{s.leaves, s.experts, s.rows, s.width}, wide{s.leaves, s.experts, s.rows, s.hidden};
  const OwnedTensor x = random_tensor(stored, narrow, 1), dy = random_tensor(stored, narrow, 2);
  const OwnedTensor b1 = random_tensor(real, {s.experts, s.hidden}, 3);
  Left left{OwnedTensor(stored, narrow), OwnedTensor(real, {s.experts, s.hidden}),
            OwnedTensor(real, {s.experts, s.width}),
            Weight(real, random_tensor(real, {s.experts, s.width, s.hidden}, 4, 0.2), 5),
            Weight(real, random_tensor(real, {s.experts, s.hidden, s.width}, 7, 0.2), 8)};
  OwnedTensor u(stored, wide), h(stored, wide), du(stored, wide);
  ops->mlp_forward({.x = x, .w1 = left.w1.parameter, .b1 = b1, .u = u});
  MlpBackward backward{.dy = dy,
                       .x = x,
                       .u = u,
                       .w1 = left.w1.parameter,
                       .w2 = left.w2.parameter,
                       .h = h,
                       .du = du,
                       .dx = left.dx,
                       .dw1 = {},
                       .db1 = left.db1,
                       .dw2 = {},
                       .db2 = left.db2};
  std::vector<EarlyUpdate> updates;
  for (Weight* weight : {&left.w1, &left.w2}) {
    updates.push_back({.decay = weight == &left.w1 ? 0.1 : 0.0,
                       .multiplier = kMultiplier,
                       .frozen = weight == &left.w2,
                       .learning_rate = kRate,
                       .epsilon = kEpsilon,
                       .updates = kUpdates,
                       .parameter = weight->parameter,
                       .m = weight->m,
                       .v = weight->v});
  }
  if (early) {
    backward.update1 = &updates[0];
    backward.update2 = &updates[1];
    ops->mlp_backward(backward);
    return left;
  }
  OwnedTensor dw1(real, left.w1.parameter.shape()), dw2(real, left.w2.parameter.shape());
  backward.dw1 = dw1;
  backward.dw2 = dw2;
  ops->mlp_backward(backward);
  const OwnedTensor begin(Dtype::i64, {2}, {0, static_cast<double>(dw1.elements())});
  const OwnedTensor factor(Dtype::f64, {1}, {kMultiplier});
  for (std::size_t i = 0; i < 2; ++i) {
    const OwnedTensor decay(Dtype::f64, {1}, {updates[i].decay});
    const OwnedTensor frozen(Dtype::u8, {1}, {updates[i].frozen ? 1.0 : 0.0});
    ops->adamw_step(later(i == 0 ? left.w1 : left.w2, i == 0 ? dw1 : dw2, begin, decay, factor, frozen));
  }
  return left;
}

class EarlyUpdates : public ::testing::TestWithParam<EarlyCase> {};

TEST_P(EarlyUpdates, AreTheSameBitsAsGradientsAndAdamW) {
  const Left early = run(GetParam(), true), late = run(GetParam(), false);
  EXPECT_TRUE(same_bits(early.dx, late.dx)) << "made with the weights as they were";
  EXPECT_TRUE(same_bits(early.db1, late.db1) && same_bits(early.db2, late.db2));
  EXPECT_TRUE(same_bits(early.w1, late.w1));
  EXPECT_TRUE(same_bits(early.w2, late.w2));
}

std::vector<EarlyCase> cases() {
  std::vector<EarlyCase> all{{"reference", Dtype::f64, 0, Precision::f32, {2, 2, 5, 6, 10}}};
  const std::vector<std::pair<std::string, MlpSizes>> shapes{
      {"strips", {1, 3, 37, 192, 448}},     // hidden layers in strips
      {"rows", {1, 2, 50, 200, 400}},       // panels and vectors that are not whole
      {"leaves", {4, 2, 20, 256, 320}},     // sums over leaves
      {"long", {1, 1, 1200, 256, 320}},     // terms in several pieces, slices of all threads
      {"nothing", {1, 2, 0, 256, 320}},     // no rows: moments and decay all the same
      {"wide", {1, 1, 9, 32, 4096 + 64}}};  // tiles beside each other
  for (const auto& [name, sizes] : shapes) {
    all.push_back({name + "_f32", Dtype::f32, 3, Precision::f32, sizes});
    all.push_back({name + "_bf16", Dtype::f32, 3, Precision::bf16, sizes});
  }
  return all;
}
INSTANTIATE_TEST_SUITE_P(BackEnds, EarlyUpdates, ::testing::ValuesIn(cases()),
                         [](const auto& one) { return one.param.name; });

TEST(EarlyUpdate, BitsDoNotDependOnThreads) {
  EarlyCase c{"", Dtype::f32, 1, Precision::f32, {1, 2, 50, 256, 320}};
  const Left one = run(c, true);
  c.threads = 3;
  const Left three = run(c, true);
  EXPECT_TRUE(same_bits(one.w1, three.w1) && same_bits(one.w2, three.w2));
}

TEST(EarlyUpdate, IsRefusedWhereABackEndMakesNone) {
  const EarlyCase small{"", Dtype::f32, 1, Precision::f32, {1, 1, 4, 16, 32}};
  const Error error = error_of([&] { run(small, true); });
  EXPECT_EQ(error.code(), ExitCode::other);
  EXPECT_NE(std::string(error.what()).find("the cpu back end makes none"), std::string::npos) << error.what();
}

}  // namespace
}  // namespace vitrail::testing
