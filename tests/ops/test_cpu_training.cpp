// Calls of the losses and the update for test_cpu_ops.cpp, and what is particular to them.

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

#include <gtest/gtest.h>

#include "tests/ops/verb_cases.hpp"

namespace vitrail::testing {

namespace {

VerbCase losses_case(std::int64_t images, std::int64_t classes) {
  return {
      case_name("losses", {images, classes}), [=](Ops& ops) -> std::vector<OwnedTensor> {
        const Dtype real = ops.real();
        auto labels = random_integers(Dtype::i32, {images, 1}, 1, classes);
        if (images > 2) labels.set(1, -1), labels.set(2, static_cast<double>(classes));
        const auto logits = random_tensor(real, {images, classes}, 2, 4.0);
        OwnedTensor targets(real, {images, classes}), softmax(real, {images}), sigmoid(real, {images}),
            dsoftmax(real, {images, classes}), dsigmoid(real, {images, classes}), only(real, {images}),
            predicted(Dtype::i32, {images});
        ops.one_hot({.labels = labels, .on = 0.9, .off = 0.02, .targets = targets});
        ops.softmax_cross_entropy(
            {.logits = logits, .targets = targets, .scale = 0.25, .loss = softmax, .dlogits = dsoftmax});
        ops.sigmoid_cross_entropy(
            {.logits = logits, .targets = targets, .scale = 0.25, .loss = sigmoid, .dlogits = dsigmoid});
        ops.softmax_cross_entropy({.logits = logits, .targets = targets, .scale = 0.25, .loss = only, .dlogits = {}});
        ops.predict({.logits = logits, .predicted = predicted});
        return {targets, softmax, dsoftmax, sigmoid, dsigmoid, only, predicted};
      }};
}

VerbCase update_case(std::int64_t n, std::int64_t updates, double clip_absolute) {
  return {case_name("update", {n, updates}) + (clip_absolute > 0.0 ? "_clipped" : ""),
          [=](Ops& ops) -> std::vector<OwnedTensor> {
            const Dtype real = ops.real();
            const std::int64_t third = n / 3;
            const std::int64_t last_quarter = n - n / 4;
            const OwnedTensor begin(Dtype::i64, {5},
                                    {0, static_cast<double>(third), static_cast<double>(third),
                                     static_cast<double>(last_quarter), static_cast<double>(n)});
            const OwnedTensor decay(Dtype::f64, {4}, {0.1, 0.0, 0.0, 0.3});
            const OwnedTensor multiplier(Dtype::f64, {4}, {1.0, 1.0, 0.5, 2.0});
            const OwnedTensor frozen(Dtype::u8, {4}, {0, 0, 1, 0});
            const auto gradient = random_tensor(real, {n}, 1);
            auto parameter = random_tensor(real, {n}, 2);
            auto m = random_tensor(real, {n}, 3, 0.1);
            auto v = random_tensor(real, {n}, 4, 0.1);
            for (std::int64_t i = 0; i < n; ++i) v.set(i, std::abs(v.get(i)));
            ops.adamw_step({.gradient = gradient,
                            .block_begin = begin,
                            .decay = decay,
                            .multiplier = multiplier,
                            .frozen = frozen,
                            .gradient_scale = OwnedTensor(Dtype::f64, {1}, {0.7}),
                            .clip_absolute = clip_absolute,
                            .learning_rate = 0.01,
                            .updates = updates,
                            .parameter = parameter,
                            .m = m,
                            .v = v});
            OwnedTensor sums(Dtype::f64, {4}), finite(Dtype::i32, {1});
            ops.block_square_sums({.x = gradient, .block_begin = begin, .sums = sums});
            ops.all_finite({.x = gradient, .finite = finite});
            auto total = random_tensor(real, {n}, 5);
            ops.accumulate({.x = gradient, .y = total});
            return {parameter, m, v, sums, finite, total};
          }};
}

}  // namespace

std::vector<VerbCase> training_cases() {
  std::vector<VerbCase> cases;
  for (const std::int64_t classes : {1, 7, 10, 33, 257, 2000}) {
    cases.push_back(losses_case(1, classes));
    cases.push_back(losses_case(7, classes));
  }
  cases.push_back(losses_case(0, 10));
  cases.push_back(losses_case(2, 5003));
  cases.push_back(losses_case(3, 4100));
  for (const std::int64_t n : {0, 1, 7, 33, 257, 50000}) {
    cases.push_back(update_case(n, 1, 0.0));
    cases.push_back(update_case(n, 1000, 0.5));
  }
  return cases;
}

TEST(CpuRandomNormal, IsTheNormalOfThePhiloxStreamRoundedOnce) {
  const auto ops = make_cpu_ops(2);
  const Philox random(77, Purpose::router_noise, 5, 3);
  for (const std::int64_t n : {0, 1, 7, 33, 257, 40001}) {
    OwnedTensor y(Dtype::f32, {n});
    ops->random_normal(
        {.seed = 77, .purpose = Purpose::router_noise, .step = 5, .layer = 3, .first_index = 1048, .y = y});
    for (std::int64_t i = 0; i < n; ++i) {
      const auto expected = static_cast<float>(random.normal(1048 + static_cast<std::uint64_t>(i)));
      ASSERT_EQ(std::bit_cast<std::uint32_t>(expected), std::bit_cast<std::uint32_t>(y.as<float>()[i]))
          << "value " << i;
    }
  }
}

/// Numbers of the reference, rounded once: bits of double matter to one in 10^8.
void expect_initial_values(InitialValues a) {
  const auto cpu = make_cpu_ops(2);
  const auto reference = make_reference_ops();
  for (const std::int64_t n : {1, 7, 33, 257, 40001}) {
    for (const std::int64_t copies : {1, 3}) {
      OwnedTensor got(Dtype::f32, {copies, n}), expected(Dtype::f64, {copies, n});
      a.y = got;
      cpu->initial_values(a);
      a.y = expected;
      reference->initial_values(a);
      for (std::int64_t i = 0; i < copies * n; ++i)
        ASSERT_EQ(got.as<float>()[i], static_cast<float>(expected.get(i))) << "value " << i << " of " << n;
    }
  }
}

TEST(CpuInitialValues, AreThoseOfTheReferenceRoundedOnce) {
  using Number = InitialValues::Number;
  for (const Number number : {Number::one, Number::uniform, Number::normal, Number::truncated_normal}) {
    for (const std::uint64_t first : {std::uint64_t{0}, std::uint64_t{5}, (std::uint64_t{1} << 34) - 10}) {
      SCOPED_TRACE(text("number ", static_cast<int>(number), " from ", first));
      expect_initial_values(
          {.number = number, .scale = 0.3, .seed = 77, .tensor = 3, .first_index = first, .y = Tensor()});
    }
  }
}

TEST(CpuAllFinite, SeesOneNaNOrInfinityAnywhere) {
  const auto ops = make_cpu_ops(2);
  for (const double bad : {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity(),
                           -std::numeric_limits<double>::infinity()}) {
    for (const std::int64_t place : {0, 20000, 40006}) {
      auto x = random_tensor(Dtype::f32, {40007}, 1);
      x.set(place, bad);
      OwnedTensor finite(Dtype::i32, {1});
      ops->all_finite({.x = x, .finite = finite});
      EXPECT_EQ(finite.get(0), 0.0);
    }
  }
}

TEST(CpuPredict, PassesOverNaN) {
  const auto ops = make_cpu_ops(1);
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const OwnedTensor logits(Dtype::f32, {3, 3}, {nan, 1, 2, 5, nan, 5, nan, nan, nan});
  OwnedTensor predicted(Dtype::i32, {3});
  ops->predict({.logits = logits, .predicted = predicted});
  EXPECT_EQ(predicted.values(), (std::vector<double>{2, 0, 0}));
}

}  // namespace vitrail::testing
