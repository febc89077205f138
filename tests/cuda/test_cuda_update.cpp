// What is particular to the update verbs of the cuda back end: bits of blocks and units wherever they lie, moments in
// bfloat16, special numbers.

#include <array>
#include <cmath>
#include <limits>

#include <gtest/gtest.h>

#include "tests/cuda/gpu.hpp"
#include "tests/ops/rounded_momentum.hpp"

namespace vitrail::testing {

namespace {

/// Elements first .. first + count - 1 of a tensor that is longer, on the device: as a slice, so that it begins there.
Tensor part(OwnedTensor& tensor, std::int64_t first, std::int64_t count) { return tensor.view().slice(first, count); }

OwnedTensor cut(const OwnedTensor& tensor, std::int64_t first, std::int64_t count) {
  OwnedTensor piece(tensor.dtype(), {count});
  for (std::int64_t i = 0; i < count; ++i) piece.set(i, tensor.get(first + i));
  return piece;
}

TEST(CudaBlockSquareSums, AreTheSameBitsWhereverABlockLies) {
  Gpu gpu;
  const std::int64_t n = 5003;
  for (const std::int64_t first : {0, 1, 2, 3, 4, 7}) {
    OwnedTensor x = random_tensor(Dtype::f32, {first + n + 9}, 1);
    const OwnedTensor alone = cut(x, first, n);
    OwnedTensor sums(Dtype::f64, {3}), sum(Dtype::f64, {1});
    gpu.ops->block_square_sums(
        {.x = x,
         .block_begin = OwnedTensor(
             Dtype::i64, {4},
             {0, static_cast<double>(first), static_cast<double>(first + n), static_cast<double>(first + n + 9)}),
         .sums = sums});
    gpu.ops->block_square_sums(
        {.x = alone, .block_begin = OwnedTensor(Dtype::i64, {2}, {0, static_cast<double>(n)}), .sums = sum});
    EXPECT_EQ(sums.get(1), sum.get(0)) << "from " << first;
  }
}

TEST(CudaAdamW, HasTheSameBitsForSlicesThatBeginAnywhere) {
  Gpu gpu;
  const std::int64_t n = 5003;
  const OwnedTensor begin(Dtype::i64, {4}, {0, 17, 4500, static_cast<double>(n)}), decay(Dtype::f64, {3}, {.1, 0, .3}),
      multiplier(Dtype::f64, {3}, {1, .5, 2}), frozen(Dtype::u8, {3}, {0, 0, 1});
  std::vector<std::vector<OwnedTensor>> results;
  for (const std::int64_t first : {0, 1, 4}) {
    OwnedTensor gradient(Dtype::f32, {first + n}), parameter = gradient, m = gradient, v = gradient;
    std::uint32_t stream = 0;
    for (OwnedTensor* x : {&gradient, &parameter, &m, &v}) {
      const OwnedTensor values = random_tensor(Dtype::f32, {n}, ++stream);
      for (std::int64_t i = 0; i < n; ++i) x->set(first + i, x == &v ? std::abs(values.get(i)) : values.get(i));
    }
    gpu.ops->adamw_step({.gradient = part(gradient, first, n),
                         .block_begin = begin,
                         .decay = decay,
                         .multiplier = multiplier,
                         .frozen = frozen,
                         .clip_absolute = 1.5,
                         .learning_rate = 0.01,
                         .updates = 3,
                         .parameter = part(parameter, first, n),
                         .m = m.view().slice(first, n),
                         .v = part(v, first, n)});
    for (std::int64_t i = 0; i < first; ++i) EXPECT_TRUE(std::isnan(parameter.get(i))) << "before the slice";
    results.push_back({cut(parameter, first, n), cut(m, first, n), cut(v, first, n)});
  }
  expect_same(results[1], results[0], " of a slice from 1");
  expect_same(results[2], results[0], " of a slice from 4");
}

TEST(CudaAdafactor, BitsOfAUnitDoNotDependOnTheOthers) {
  Gpu gpu;
  using Factors = std::array<std::int64_t, 5>;
  const std::vector<Factors> all = {{37, 0, 0, 0, 0}, {1, 33, 1, 65, 1}, {2, 33, 3, 7, 9}, {1, 40, 2, 5, 1}};
  const auto elements = [](const Factors& f) { return f[1] > 0 ? f[0] * f[1] * f[2] * f[3] * f[4] : f[0]; };
  const auto statistics = [](const Factors& f) { return f[1] > 0 ? f[0] * f[2] * f[4] * (f[1] + f[3]) : f[0]; };
  // Unit i of `all` holds the same numbers wherever it stands.
  const auto run = [&](const std::vector<std::size_t>& units, std::int64_t gap) {
    const auto count = static_cast<std::int64_t>(units.size());
    OwnedTensor begin(Dtype::i64, {count}), factors(Dtype::i64, {count, 5}), first(Dtype::i64, {count}),
        decay(Dtype::f64, {count}), multiplier(Dtype::f64, {count}), frozen(Dtype::u8, {count});
    std::vector<double> gradients;
    std::int64_t places = 0;
    for (std::int64_t i = 0; i < count; ++i) {
      const std::size_t unit = units[static_cast<std::size_t>(i)];
      begin.set(i, static_cast<double>(gradients.size()));
      first.set(i, static_cast<double>(places));
      for (std::int64_t j = 0; j < 5; ++j)
        factors.set(5 * i + j, static_cast<double>(all[unit][static_cast<std::size_t>(j)]));
      decay.set(i, 0.1), multiplier.set(i, 2), frozen.set(i, 0);
      const auto values = random_tensor(Dtype::f32, {elements(all[unit])}, static_cast<std::uint32_t>(unit)).values();
      gradients.insert(gradients.end(), values.begin(), values.end());
      gradients.insert(gradients.end(), static_cast<std::size_t>(gap), 1e30);  // belongs to none
      places += statistics(all[unit]);
    }
    const auto n = static_cast<std::int64_t>(gradients.size());
    OwnedTensor gradient(Dtype::f32, {n}), parameter(Dtype::f32, {n}), m(Dtype::f32, {n}), state(Dtype::f32, {places});
    for (std::int64_t i = 0; i < n; ++i) {
      gradient.set(i, gradients[static_cast<std::size_t>(i)]), parameter.set(i, 1), m.set(i, 0);
    }
    for (std::int64_t i = 0; i < places; ++i) state.set(i, 0.5);
    gpu.ops->adafactor_step({.gradient = gradient,
                             .unit_begin = begin,
                             .factors = factors,
                             .statistics_begin = first,
                             .decay = decay,
                             .multiplier = multiplier,
                             .frozen = frozen,
                             .learning_rate = 0.1,
                             .decay_rate = 0.5,
                             .parameter = parameter,
                             .statistics = state,
                             .m = m});
    std::vector<std::vector<OwnedTensor>> of_units;
    for (std::int64_t i = 0; i < count; ++i) {
      const Factors& f = all[units[static_cast<std::size_t>(i)]];
      const auto at = static_cast<std::int64_t>(begin.get(i));
      of_units.push_back({cut(parameter, at, elements(f)), cut(m, at, elements(f)),
                          cut(state, static_cast<std::int64_t>(first.get(i)), statistics(f))});
      for (std::int64_t j = 0; j < gap; ++j) EXPECT_EQ(parameter.get(at + elements(f) + j), 1) << "between units";
    }
    return of_units;
  };
  const auto together = run({0, 1, 2, 3}, 3), reversed = run({3, 2, 1, 0}, 0);
  for (std::size_t unit = 0; unit < all.size(); ++unit) {
    const auto alone = run({unit}, 0);
    expect_same(together[unit], alone[0], text(" of unit ", unit, " among all"));
    expect_same(reversed[all.size() - 1 - unit], alone[0], text(" of unit ", unit, " among all, reversed"));
  }
}

TEST(CudaUpdate, RoundsAMomentumThatIsBfloat16AsTheReferenceDoes) {
  Gpu gpu;
  expect_rounded_momentum(*gpu.ops);
}

TEST(CudaUpdate, AGradientThatIsNoNumberStaysNoneBehindClipping) {
  Gpu gpu;
  OwnedTensor parameter(Dtype::f32, {2}, {1, 1});
  gpu.ops->sgd_step({.gradient = OwnedTensor(Dtype::f32, {2}, {std::nan(""), -7}),
                     .block_begin = OwnedTensor(Dtype::i64, {2}, {0, 2}),
                     .decay = OwnedTensor(Dtype::f64, {1}, {0}),
                     .multiplier = OwnedTensor(Dtype::f64, {1}, {1}),
                     .frozen = OwnedTensor(Dtype::u8, {1}, {0}),
                     .clip_absolute = 0.5,
                     .learning_rate = 1,
                     .parameter = parameter,
                     .trace = {}});
  EXPECT_TRUE(std::isnan(parameter.get(0)));
  EXPECT_EQ(parameter.get(1), 1.5);
}

TEST(CudaAllFinite, SeesOneNaNOrInfinityAnywhere) {
  Gpu gpu;
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  OwnedTensor x = random_tensor(Dtype::f32, {5003}, 1), finite(Dtype::i32, {1});
  gpu.ops->all_finite({.x = x, .finite = finite});
  EXPECT_EQ(finite.get(0), 1);
  for (const double bad : {std::nan(""), kInfinity, -kInfinity}) {
    for (const std::int64_t place : {0, 2000, 5002}) {
      const double good = x.get(place);
      x.set(place, bad);
      gpu.ops->all_finite({.x = x, .finite = finite});
      EXPECT_EQ(finite.get(0), 0) << bad << " at " << place;
      x.set(place, good);
    }
  }
}

}  // namespace
}  // namespace vitrail::testing
