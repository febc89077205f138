// Calls of clipping, SGD and Adafactor for test_cpu_ops.cpp, and what is particular to them.

#include <array>
#include <cmath>
#include <limits>

#include <gtest/gtest.h>

#include "tests/ops/rounded_momentum.hpp"
#include "tests/ops/verb_cases.hpp"

namespace vitrail::testing {

namespace {

VerbCase sgd_case(std::int64_t n, double momentum, double clip_absolute) {
  return {case_name("sgd", {n}) + (momentum > 0.0 ? "_momentum" : "") + (clip_absolute > 0.0 ? "_clipped" : ""),
          [=](Ops& ops) -> std::vector<OwnedTensor> {
            const Dtype real = ops.real();
            const std::int64_t third = n / 3;  // the second block is empty
            const OwnedTensor begin(
                Dtype::i64, {4}, {0, static_cast<double>(third), static_cast<double>(third), static_cast<double>(n)});
            auto parameter = random_tensor(real, {n}, 2);
            auto trace = momentum > 0.0 ? random_tensor(real, {n}, 3) : OwnedTensor();
            ops.sgd_step({.gradient = random_tensor(real, {n}, 1),
                          .block_begin = begin,
                          .decay = OwnedTensor(Dtype::f64, {3}, {0.1, 0.0, 0.3}),
                          .multiplier = OwnedTensor(Dtype::f64, {3}, {1.0, 1.0, 0.5}),
                          .frozen = OwnedTensor(Dtype::u8, {3}, {1, 0, 0}),
                          .gradient_scale = OwnedTensor(Dtype::f64, {1}, {0.7}),
                          .clip_absolute = clip_absolute,
                          .learning_rate = 0.01,
                          .momentum = momentum,
                          .parameter = parameter,
                          .trace = trace});
            return {parameter, trace};
          }};
}

using Factors = std::array<std::int64_t, 5>;

/// Statistics and elements of a unit.
std::int64_t statistics_of(const Factors& f) {
  const auto [a, x, b, y, c] = f;
  return x > 0 ? a * b * c * (x + y) : a;
}
std::int64_t elements_of(const Factors& f) { return f[1] > 0 ? f[0] * f[1] * f[2] * f[3] * f[4] : f[0]; }

/// Two updates of a vector of 7, the given unit, and a matrix [3 4], with gaps between them.
VerbCase adafactor_case(const std::string& name, const Factors& given, bool momentum) {
  return {"adafactor_" + name + (momentum ? "_momentum" : ""), [=](Ops& ops) -> std::vector<OwnedTensor> {
            const Dtype real = ops.real();
            const std::array<Factors, 3> units = {Factors{7, 0, 0, 0, 0}, given, Factors{1, 3, 1, 4, 1}};
            OwnedTensor begin(Dtype::i64, {3}), factors(Dtype::i64, {3, 5}), statistics_begin(Dtype::i64, {3});
            std::int64_t n = 0, count = 0;
            for (std::int64_t i = 0; i < 3; ++i) {
              const Factors& unit = units[static_cast<std::size_t>(i)];
              begin.set(i, static_cast<double>(n));
              statistics_begin.set(i, static_cast<double>(count));
              for (std::int64_t j = 0; j < 5; ++j)
                factors.set(5 * i + j, static_cast<double>(unit[static_cast<std::size_t>(j)]));
              n += elements_of(unit) + 3;
              count += statistics_of(unit);
            }
            auto parameter = random_tensor(real, {n}, 2);
            auto m = momentum ? random_tensor(real, {n}, 3, 0.1) : OwnedTensor();
            OwnedTensor statistics(real, {count});
            for (std::int64_t i = 0; i < count; ++i) statistics.set(i, 0);
            for (const std::uint32_t step : {0U, 1U}) {
              ops.adafactor_step({.gradient = random_tensor(real, {n}, 10 + step),
                                  .unit_begin = begin,
                                  .factors = factors,
                                  .statistics_begin = statistics_begin,
                                  .decay = OwnedTensor(Dtype::f64, {3}, {0.1, 0.2, 0.0}),
                                  .multiplier = OwnedTensor(Dtype::f64, {3}, {1.0, 0.5, 2.0}),
                                  .frozen = OwnedTensor(Dtype::u8, {3}, {0, 0, momentum ? 1.0 : 0.0}),
                                  .gradient_scale = OwnedTensor(Dtype::f64, {1}, {0.7}),
                                  .clip_absolute = momentum ? 0.5 : 0.0,
                                  .learning_rate = 0.01,
                                  .decay_rate = 0.4 * step,
                                  .parameter = parameter,
                                  .statistics = statistics,
                                  .m = m});
            }
            return {parameter, statistics, m};
          }};
}

/// Sums that are taken backwards, one of them not at all. `odd`: its place holds infinity.
VerbCase clip_case(std::int64_t n, double clip_norm, bool odd) {
  return {case_name("clip_scale", {n}) + (clip_norm > 0.0 ? "_clipped" : "") + (odd ? "_halted" : ""),
          [=](Ops& ops) -> std::vector<OwnedTensor> {
            auto sums = random_tensor(Dtype::f64, {n + 1}, 1), weights = random_tensor(Dtype::f64, {n}, 2);
            OwnedTensor order(Dtype::i64, {n});
            for (std::int64_t i = 0; i < n; ++i) order.set(i, static_cast<double>(n - i));
            for (OwnedTensor* x : {&sums, &weights}) {
              for (std::int64_t i = 0; i < x->elements(); ++i) x->set(i, std::abs(x->get(i)));
            }
            if (odd) sums.set(0, std::numeric_limits<double>::infinity());
            OwnedTensor norm(Dtype::f64, {1}), scale(Dtype::f64, {1}), halt(Dtype::i32, {1}, {0});
            ops.clip_scale({.sums = sums,
                            .order = order,
                            .weights = weights,
                            .clip_norm = clip_norm,
                            .norm = norm,
                            .scale = scale,
                            .halt = halt});
            return {norm, scale, halt};
          }};
}

/// Every update with `halt` set.
VerbCase halted_case() {
  return {"halted", [](Ops& ops) -> std::vector<OwnedTensor> {
            const Dtype real = ops.real();
            const OwnedTensor halt(Dtype::i32, {1}, {1}), begin(Dtype::i64, {2}, {0, 40}), first(Dtype::i64, {1}, {0}),
                one(Dtype::f64, {1}, {1}), free(Dtype::u8, {1}, {0}), gradient = random_tensor(real, {40}, 1);
            OwnedTensor parameter = random_tensor(real, {40}, 2), m = random_tensor(real, {40}, 3), v = m;
            ops.adamw_step({.gradient = gradient,
                            .block_begin = begin,
                            .decay = one,
                            .multiplier = one,
                            .frozen = free,
                            .halt = halt,
                            .learning_rate = 1,
                            .bf16_moment = true,
                            .parameter = parameter,
                            .m = m,
                            .v = v});
            ops.sgd_step({.gradient = gradient,
                          .block_begin = begin,
                          .decay = one,
                          .multiplier = one,
                          .frozen = free,
                          .halt = halt,
                          .learning_rate = 1,
                          .momentum = 0.9,
                          .parameter = parameter,
                          .trace = m});
            for (const bool factored : {false, true}) {
              ops.adafactor_step({.gradient = gradient,
                                  .unit_begin = first,
                                  .factors = factored ? OwnedTensor(Dtype::i64, {1, 5}, {1, 4, 1, 10, 1})
                                                      : OwnedTensor(Dtype::i64, {1, 5}, {40, 0, 0, 0, 0}),
                                  .statistics_begin = first,
                                  .decay = one,
                                  .multiplier = one,
                                  .frozen = free,
                                  .halt = halt,
                                  .learning_rate = 1,
                                  .decay_rate = 0.5,
                                  .parameter = parameter,
                                  .statistics = v,
                                  .m = m});
            }
            OwnedTensor average = parameter;
            ops.running_average({.x = gradient, .halt = halt, .decay = 0.9, .y = average});
            return {parameter, m, v, average};
          }};
}

}  // namespace

std::vector<VerbCase> update_cases() {
  std::vector<VerbCase> cases = {halted_case()};
  for (const std::int64_t n : {0, 1, 7, 33, 257, 1024, 5000}) {
    cases.push_back(clip_case(n, 0.0, false));
    cases.push_back(clip_case(n, 0.5, false));
    cases.push_back(clip_case(n, 0.5, true));
  }
  for (const std::int64_t n : {0, 1, 7, 33, 257, 50000}) {
    cases.push_back(sgd_case(n, 0.0, 0.0));
    cases.push_back(sgd_case(n, 0.9, 0.5));
  }
  for (const bool momentum : {false, true}) {
    for (const auto& [name, factors] : {std::pair{"nothing", Factors{0, 0, 0, 0, 0}},
                                        {"vector_20000", Factors{20000, 0, 0, 0, 0}},
                                        {"matrix_1_1", Factors{1, 1, 1, 1, 1}},
                                        {"matrix_33_257", Factors{1, 33, 1, 257, 1}},
                                        {"matrix_1100_70", Factors{1, 1100, 1, 70, 1}},
                                        {"heads_in_between", Factors{1, 64, 3, 33, 1}},
                                        {"heads_before", Factors{3, 33, 1, 64, 1}},
                                        {"channels_behind", Factors{2, 33, 3, 7, 9}},
                                        {"many_channels_behind", Factors{1, 7, 1, 5, 1100}}}) {
      cases.push_back(adafactor_case(name, factors, momentum));
    }
  }
  return cases;
}

TEST(CpuUpdate, RoundsAMomentumThatIsBfloat16AsTheReferenceDoes) { expect_rounded_momentum(*make_cpu_ops(1)); }

}  // namespace vitrail::testing
