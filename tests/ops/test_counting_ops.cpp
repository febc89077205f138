// What a call costs, by hand; and that counting changes nothing.

#include <map>
#include <memory>
#include <set>

#include <gtest/gtest.h>

#include "ops/counting_ops.hpp"
#include "tests/ops/verb_cases.hpp"

namespace vitrail::testing {

namespace {

const VerbCount& count_of(CountingOps& ops, std::string_view verb) {
  for (const VerbCount& one : ops.counts()) {
    if (one.verb == verb) return one;
  }
  fail(ExitCode::other, {text("no verb ", verb), "the test is wrong", ""});
}

/// A tensor of f32 that has a shape and no numbers: costs depend on shapes alone.
Tensor shaped(Shape shape, Dtype dtype = Dtype::f32) {
  static std::byte somewhere{};
  return {&somewhere, shape, dtype};
}

/// The first cases, which are small, of every family of verbs; names are a family and sizes.
std::vector<VerbCase> small_cases() {
  std::vector<VerbCase> chosen;
  for (auto* cases :
       {dense_cases, token_cases, routing_cases, soft_router_cases, training_cases, update_cases, elementwise_cases}) {
    std::map<std::string, int> seen;
    for (VerbCase& one : cases()) {
      if (++seen[one.name.substr(0, one.name.find_first_of("0123456789"))] <= 4) chosen.push_back(std::move(one));
    }
  }
  return chosen;
}

}  // namespace

TEST(CountingOps, GivesTheSameBitsAsTheInnerBackEnd) {
  const auto plain = make_cpu_ops(1);
  const auto inner = make_cpu_ops(1);
  const auto device = make_cpu_device();
  CountingOps counting(*inner, *device);
  EXPECT_EQ(counting.name(), "cpu");
  EXPECT_EQ(counting.real(), Dtype::f32);
  for (const VerbCase& one : small_cases()) {
    const std::vector<OwnedTensor> expected = one.run(*plain);
    const std::vector<OwnedTensor> got = one.run(counting);
    ASSERT_EQ(got.size(), expected.size());
    for (std::size_t i = 0; i < got.size(); ++i) EXPECT_TRUE(same_bits(got[i], expected[i])) << one.name << ' ' << i;
  }
  OwnedTensor expected(Dtype::f32, {5}), got(Dtype::f32, {5});
  plain->random_normal({.seed = 7, .y = expected});
  counting.random_normal({.seed = 7, .y = got});
  EXPECT_TRUE(same_bits(got, expected));
  OwnedTensor expected_values(Dtype::f32, {1, 5}), values(Dtype::f32, {1, 5});
  plain->initial_values({.number = InitialValues::Number::normal, .seed = 7, .y = expected_values});
  counting.initial_values({.number = InitialValues::Number::normal, .seed = 7, .y = values});
  EXPECT_TRUE(same_bits(values, expected_values));
  std::set<std::string_view> missing;
  for (const VerbCount& one : counting.counts()) {
    if (one.calls == 0) missing.insert(one.verb);
    EXPECT_EQ(one.calls > 0, one.bytes > 0) << one.verb;
    EXPECT_EQ(one.calls > 0, one.seconds > 0) << one.verb;
  }
  EXPECT_EQ(missing, std::set<std::string_view>());
}

TEST(CountingOps, AddsUpCallsAndStartsAgain) {
  const auto inner = make_cpu_ops(1);
  const auto device = make_cpu_device();
  CountingOps counting(*inner, *device);
  const auto x = random_tensor(Dtype::f32, {2, 3, 5, 7}, 1);
  const auto w = random_tensor(Dtype::f32, {3, 7, 11}, 2);
  OwnedTensor y(Dtype::f32, {2, 3, 5, 11});
  for (int i = 0; i < 3; ++i) counting.linear_forward({.x = x, .w = w, .b = {}, .residual = {}, .y = y});
  const VerbCount& linear = count_of(counting, "linear_forward");
  EXPECT_EQ(linear.calls, 3);
  EXPECT_EQ(linear.flops, 3 * 2.0 * (2 * 3 * 5) * 7 * 11);
  EXPECT_EQ(linear.bytes, 3 * 4.0 * (2 * 3 * 5 * 7 + 3 * 7 * 11 + 2 * 3 * 5 * 11));
  EXPECT_GT(linear.seconds, 0);
  EXPECT_EQ(count_of(counting, "linear_backward").calls, 0);
  counting.reset();
  EXPECT_EQ(count_of(counting, "linear_forward").calls, 0);
  EXPECT_EQ(count_of(counting, "linear_forward").flops, 0);
}

TEST(CountingOps, ChecksShapesAndDoesNotCountRefusedCalls) {
  const auto inner = make_cpu_ops(1);
  const auto device = make_cpu_device();
  CountingOps counting(*inner, *device);
  OwnedTensor x(Dtype::f32, {3}), y(Dtype::f32, {4});
  EXPECT_THROW(counting.tanh_forward({.x = x, .y = y}), Error);
  EXPECT_EQ(count_of(counting, "tanh_forward").calls, 0);
}

TEST(CountingOps, SealsTheInnerBackEnd) {
  const auto inner = make_cpu_ops(1);
  const auto device = make_cpu_device();
  CountingOps counting(*inner, *device);
  counting.seal();
  const VerbCase one = dense_cases().back();
  const auto unsealed = make_cpu_ops(1);
  EXPECT_NO_THROW(one.run(*unsealed));
  EXPECT_THROW(one.run(counting), Error);  // it would have to allocate
}

TEST(VerbCost, OfTheProductsInABackwardPass) {
  LinearBackward linear{.dy = shaped({2, 1, 5, 11}),
                        .x = shaped({2, 1, 5, 7}),
                        .w = shaped({1, 7, 11}),
                        .dresidual = {},
                        .dx = {},
                        .dw = shaped({1, 7, 11}),
                        .db = {}};
  EXPECT_EQ(cost_of(linear).flops, 2.0 * 10 * 7 * 11);
  EXPECT_EQ(cost_of(linear).bytes, 4.0 * (10 * 11 + 10 * 7 + 7 * 11));  // w is not read
  linear.dx = shaped({2, 1, 5, 7});
  EXPECT_EQ(cost_of(linear).flops, 2 * 2.0 * 10 * 7 * 11);
  EXPECT_EQ(cost_of(linear).bytes, 4.0 * (10 * 11 + 2 * 10 * 7 + 2 * 7 * 11));
}

TEST(VerbCost, OfAttentionIsTwoProductsForwardAndFourBackward) {
  const Tensor heads = shaped({2, 3, 5, 4, 8});  // leaves B T H Dh
  const double product = 2.0 * (2 * 3 * 4) * 5 * 5 * 8;
  EXPECT_EQ(cost_of(AttentionForward{.q = heads, .k = heads, .v = heads, .out = heads, .log_sum_exp = heads}).flops,
            2 * product);
  EXPECT_EQ(cost_of(AttentionBackward{.dout = heads,
                                      .q = heads,
                                      .k = heads,
                                      .v = heads,
                                      .out = heads,
                                      .log_sum_exp = heads,
                                      .dq = heads,
                                      .dk = heads,
                                      .dv = heads})
                .flops,
            4 * product);
}

TEST(VerbCost, OfAnMlpIsThatOfItsTwoLayers) {
  const Tensor narrow = shaped({2, 3, 5, 4}), wide = shaped({2, 3, 5, 16});
  const Tensor w1 = shaped({3, 4, 16}), w2 = shaped({3, 16, 4}), b1 = shaped({3, 16}), b2 = shaped({3, 4});
  const double layer = 2.0 * (2 * 3 * 5) * 4 * 16;
  EXPECT_EQ(
      cost_of(
          MlpForward{
              .x = narrow, .w1 = w1, .b1 = b1, .w2 = w2, .b2 = b2, .residual = {}, .u = wide, .h = wide, .y = narrow})
          .flops,
      2 * layer);
  EXPECT_EQ(cost_of(MlpForward{.x = narrow, .w1 = w1, .b1 = b1, .u = wide}).flops, layer);
  EXPECT_EQ(cost_of(MlpBackward{.dy = narrow,
                                .x = narrow,
                                .u = wide,
                                .w1 = w1,
                                .w2 = w2,
                                .h = wide,
                                .du = wide,
                                .dx = narrow,
                                .dw1 = w1,
                                .db1 = b1,
                                .dw2 = w2,
                                .db2 = b2})
                .flops,
            4 * layer);
}

TEST(VerbCost, OfTheUpdateReadsAndWritesParametersAndMoments) {
  const Tensor n = shaped({1000});
  const AdamWStep call{.gradient = n,
                       .block_begin = shaped({3}, Dtype::i64),
                       .decay = shaped({2}, Dtype::f64),
                       .multiplier = shaped({2}, Dtype::f64),
                       .frozen = shaped({2}, Dtype::u8),
                       .parameter = n,
                       .m = n,
                       .v = n};
  EXPECT_EQ(cost_of(call).bytes, 4.0 * 7 * 1000 + 3 * 8 + 2 * 8 + 2 * 8 + 2);
  EXPECT_EQ(cost_of(call).flops, 0);
}

TEST(VerbCost, OfMovingRowsCountsARowPerAssignment) {
  const Tensor rows = shaped({10, 6}), tokens = shaped({4, 6}), choices = shaped({4, 2}, Dtype::i32);
  const Tensor gate = shaped({4, 2});
  EXPECT_EQ(cost_of(GatherRowsForward{.x = tokens, .source = shaped({10}, Dtype::i32), .choices = 2, .y = rows}).bytes,
            4.0 * (10 + 2 * 60));
  EXPECT_EQ(cost_of(CombineRowsForward{.o = rows, .row = choices, .gate = gate, .residual = tokens, .y = tokens}).bytes,
            4.0 * (8 * 6 + 8 + 8 + 24 + 24));
  EXPECT_EQ(cost_of(GatherRowsBackward{.dy = rows, .row = choices, .dresidual = {}, .dx = tokens}).bytes,
            4.0 * (8 * 6 + 8 + 24));
}

}  // namespace vitrail::testing
