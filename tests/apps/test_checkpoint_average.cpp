#include <limits>

#include <gtest/gtest.h>

#include "apps/checkpoint_average.hpp"
#include "tests/errors.hpp"

namespace vitrail {
namespace {

template <class T>
ConstTensor view(const std::vector<T>& values) {
  return {values.data(), {std::ssize(values)}, dtype_of<T>};
}

template <class T>
std::vector<T> written(const WeightedMean& mean, std::size_t elements) {
  std::vector<T> values(elements);
  mean.write(Tensor(values.data(), {std::ssize(values)}, dtype_of<T>));
  return values;
}

TEST(WeightedMean, IsTheSumOverTheWeights) {
  WeightedMean mean(2);
  mean.add(view(std::vector<float>{1, 4}), 1);
  mean.add(view(std::vector<float>{2, -4}), 3);
  EXPECT_EQ(written<float>(mean, 2), (std::vector<float>{1.75, -2}));
}

TEST(WeightedMean, OfEqualTensorsIsTheTensor) {
  const std::vector<float> values{0.1F, 1e-38F, -3e38F, 1.0F / 3};
  WeightedMean mean(4);
  for (int i = 0; i < 3; ++i) mean.add(view(values), 1);
  EXPECT_EQ(written<float>(mean, 4), values);
}

TEST(WeightedMean, RoundsOnce) {
  // In f32 the ones would be lost, each alone.
  WeightedMean mean(1);
  mean.add(view(std::vector<float>{0x1p24F}), 1);
  for (const float one : {1.0F, 1.0F, 0.0F}) mean.add(view(std::vector<float>{one}), 1);
  EXPECT_EQ(written<float>(mean, 1).front(), 0x1p22F + 0.5F);
}

TEST(WeightedMean, TakesBf16) {
  WeightedMean mean(1);
  mean.add(view(std::vector<Bf16>{to_bf16(1.0F)}), 1);
  mean.add(view(std::vector<Bf16>{to_bf16(2.0F)}), 1);
  EXPECT_EQ(to_float(written<Bf16>(mean, 1).front()), 1.5F);
}

TEST(WeightedMean, SaysWhenItIsNotFinite) {
  WeightedMean mean(2);
  mean.add(view(std::vector<float>{1, 2}), 1);
  EXPECT_TRUE(mean.finite());
  mean.add(view(std::vector<float>{1, std::numeric_limits<float>::quiet_NaN()}), 1);
  EXPECT_FALSE(mean.finite());
}

TEST(WeightsOf, AreOneForEachWithoutAny) { EXPECT_EQ(weights_of({}, 3), (std::vector<double>{1, 1, 1})); }

TEST(WeightsOf, RefusesWhatMakesNoMean) {
  const auto refused = [](std::vector<double> given) {
    try {
      (void)weights_of(given, 2);
    } catch (const Error& error) {
      return error.code() == ExitCode::usage;
    }
    return false;
  };
  EXPECT_TRUE(refused({1}));
  EXPECT_TRUE(refused({1, 2, 3}));
  EXPECT_TRUE(refused({1, -0.5}));
  EXPECT_TRUE(refused({1, std::numeric_limits<double>::infinity()}));
  EXPECT_TRUE(refused({0, 0}));
  EXPECT_FALSE(refused({0, 0.5}));
}

}  // namespace
}  // namespace vitrail
