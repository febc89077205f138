// What is particular to the elementwise verbs, the losses and the random numbers of the cuda back end: which numbers
// are drawn, special numbers, and verbs in place.

#include <array>
#include <bit>
#include <cmath>
#include <limits>

#include <gtest/gtest.h>

#include "ops/dropout_mask.hpp"
#include "tests/cuda/gpu.hpp"

namespace vitrail::testing {

namespace {

// --- random numbers --------------------------------------------------------------------------------------------------

TEST(CudaDropout, HasTheFactorsOfTheMaskRoundedOnce) {
  Gpu gpu;
  for (const double rate : {0.0, 1e-9, 0.3, 0.99, 1 - 0x1p-53}) {
    for (const std::uint64_t first :
         {std::uint64_t{0}, std::uint64_t{1003}, (std::uint64_t{1} << 34) - 132, ~std::uint64_t{0} / 2}) {
      for (const auto& [run, stride, share] :
           {std::array{1, 1, 1}, std::array{7, 7, 1}, std::array{8, 20, 1}, std::array{8, 10, 1}, std::array{5, 12, 1},
            std::array{3, 4, 6}, std::array{1, 1, 64}, std::array{2, 8, 3}}) {
        const DropoutDraw draw{.rate = rate,
                               .seed = 20240229,
                               .step = 17,
                               .layer = 5,
                               .first = first,
                               .run = run,
                               .stride = stride,
                               .share = share};
        const DropoutMask mask(draw);
        for (const std::int64_t n : {1, 3, 300, 1030}) {
          OwnedTensor y(Dtype::f32, {n});
          gpu.ops->dropout({.x = {}, .residual = {}, .draw = draw, .y = y});
          for (std::int64_t i = 0; i < n; ++i) {
            ASSERT_EQ(y.as<float>()[i], static_cast<float>(mask.factor(mask.index_of(i))))
                << rate << ", element " << i << " of " << n << " from " << first << ", run " << run;
          }
        }
      }
    }
  }
}

TEST(CudaDropout, HasTheSameBitsInPlaceAndRoundsOnceInBf16) {
  Gpu gpu;
  const std::int64_t n = 1030;
  const DropoutDraw draw{.rate = 0.4, .seed = 1, .first = 5};
  const auto x = random_tensor(Dtype::bf16, {n}, 1), residual = random_tensor(Dtype::f32, {n}, 2);
  OwnedTensor y(Dtype::f32, {n});
  gpu.ops->dropout({.x = x.to(Dtype::f32), .residual = residual, .draw = draw, .y = y});
  OwnedTensor over_x = x, over_f32 = x.to(Dtype::f32), over_residual = residual;
  gpu.ops->dropout({.x = over_x, .residual = residual, .draw = draw, .y = over_x});
  gpu.ops->dropout({.x = over_f32, .residual = residual, .draw = draw, .y = over_f32});
  gpu.ops->dropout({.x = x, .residual = over_residual, .draw = draw, .y = over_residual});
  expect_same({over_x, over_f32, over_residual}, {y.to(Dtype::bf16), y, y}, "");
}

// A GPU's logarithm, sine and cosine may differ in the last bit of a double, which may turn a rounding to f32.
TEST(CudaRandomNormal, IsTheNormalOfThePhiloxStreamRoundedOnce) {
  Gpu gpu;
  const Philox random(77, Purpose::router_noise, 5, 3);
  for (const std::uint64_t first : {std::uint64_t{1048}, std::uint64_t{1}, std::uint64_t{3}, std::uint64_t{1} << 40}) {
    for (const std::int64_t n : {0, 1, 2, 7, 257, 4001}) {
      OwnedTensor y(Dtype::f32, {n});
      gpu.ops->random_normal(
          {.seed = 77, .purpose = Purpose::router_noise, .step = 5, .layer = 3, .first_index = first, .y = y});
      std::int64_t turned = 0;
      for (std::int64_t i = 0; i < n; ++i) {
        const auto expected = static_cast<float>(random.normal(first + static_cast<std::uint64_t>(i)));
        const float got = y.as<float>()[i];
        ASSERT_TRUE(got == expected || std::nextafter(got, expected) == expected) << "value " << i << " of " << n;
        turned += got == expected ? 0 : 1;
      }
      EXPECT_LE(turned, 1);
    }
  }
}

TEST(CudaInitialValues, AreThoseOfTheReferenceRoundedOnce) {
  using Number = InitialValues::Number;
  Gpu gpu;
  const auto reference = make_reference_ops();
  for (const Number number : {Number::one, Number::uniform, Number::normal, Number::truncated_normal}) {
    for (const std::uint64_t first : {std::uint64_t{0}, std::uint64_t{5}, std::uint64_t{1} << 40}) {
      for (const Shape& shape : {Shape{1, 1}, Shape{3, 7}, Shape{2, 4001}}) {
        OwnedTensor got(Dtype::f32, shape), expected(Dtype::f64, shape);
        InitialValues a{.number = number, .scale = 0.3, .seed = 77, .tensor = 3, .first_index = first, .y = got};
        gpu.ops->initial_values(a);
        a.y = expected.host();
        reference->initial_values(a);
        std::int64_t turned = 0;
        for (std::int64_t i = 0; i < shape.elements(); ++i) {
          const auto rounded = static_cast<float>(expected.get(i));
          const float one = got.as<float>()[i];
          ASSERT_TRUE(one == rounded || std::nextafter(one, rounded) == rounded) << "value " << i << shape.str();
          turned += one == rounded ? 0 : 1;
        }
        EXPECT_LE(turned, shape[0]);
      }
    }
  }
}

// --- special numbers -------------------------------------------------------------------------------------------------

TEST(CudaBf16, HasTheBitsOfBaseForEveryKindOfNumber) {
  Gpu gpu;
  OwnedTensor x(Dtype::f32, {6 << 16}), back(Dtype::f32, {6 << 16}), y(Dtype::bf16, {6 << 16});
  for (std::uint32_t i = 0; i < 6U << 16; ++i) {
    constexpr std::uint32_t kLower[] = {0x0U, 0x1U, 0x7FFFU, 0x8000U, 0x8001U, 0xFFFFU};
    x.as<float>()[i] = std::bit_cast<float>(i / 6 << 16 | kLower[i % 6]);
  }
  gpu.ops->to_bf16({.x = x, .y = y});
  gpu.ops->from_bf16({.x = y, .residual = {}, .y = back});
  const auto *from = x.as<float>(), *again = back.as<float>();
  const auto* rounded = y.as<Bf16>();
  for (std::int64_t i = 0; i < x.elements(); ++i) {
    if (std::isnan(from[i])) {  // some NaN: a GPU knows one alone
      ASSERT_TRUE(std::isnan(to_float(rounded[i])) && std::isnan(again[i])) << std::hex << i;
      continue;
    }
    ASSERT_EQ(rounded[i].bits, to_bf16(from[i]).bits) << std::hex << i;
    ASSERT_EQ(std::bit_cast<std::uint32_t>(again[i]), std::uint32_t{rounded[i].bits} << 16);
  }
}

TEST(CudaPredict, PassesOverNaNAndTakesTheLowerOfEqualClasses) {
  Gpu gpu;
  const double nan = std::numeric_limits<double>::quiet_NaN(), infinity = std::numeric_limits<double>::infinity();
  const OwnedTensor logits(
      Dtype::f32, {6, 3},
      {nan, 1, 2, 5, nan, 5, nan, nan, nan, -infinity, nan, -infinity, -0.0, 0.0, -1, nan, -infinity, infinity});
  OwnedTensor predicted(Dtype::i32, {6});
  gpu.ops->predict({.logits = logits, .predicted = predicted});
  EXPECT_EQ(predicted.values(), (std::vector<double>{2, 0, 0, 0, 0, 2}));
  OwnedTensor wide(Dtype::f32, {2, 3000});
  for (std::int64_t i = 0; i < wide.elements(); ++i) wide.set(i, 1.0);
  for (const std::int64_t i : {2999, 1777, 1713, 5000, 4000}) wide.set(i, 7.0);
  OwnedTensor classes(Dtype::i32, {2});
  gpu.ops->predict({.logits = wide, .predicted = classes});
  EXPECT_EQ(classes.values(), (std::vector<double>{1713, 1000}));
}

TEST(CudaLosses, ShowNaNInTheLossAndTheGradientOfItsImageAlone) {
  Gpu gpu;
  for (const std::int64_t place : {0, 17, 39}) {
    auto logits = random_tensor(Dtype::f32, {3, 40}, 1);
    logits.set(40 + place, std::numeric_limits<double>::quiet_NaN());
    const auto targets = random_tensor(Dtype::f32, {3, 40}, 2);
    OwnedTensor softmax(Dtype::f32, {3}), sigmoid(Dtype::f32, {3}), dlogits(Dtype::f32, {3, 40});
    gpu.ops->softmax_cross_entropy(
        {.logits = logits, .targets = targets, .scale = 1, .loss = softmax, .dlogits = dlogits});
    EXPECT_TRUE(std::isnan(dlogits.get(41)));
    EXPECT_TRUE(std::isfinite(dlogits.get(39)) && std::isfinite(dlogits.get(80)));
    gpu.ops->sigmoid_cross_entropy(
        {.logits = logits, .targets = targets, .scale = 1, .loss = sigmoid, .dlogits = dlogits});
    EXPECT_TRUE(std::isnan(dlogits.get(40 + place)));
    for (const OwnedTensor* loss : {&softmax, &sigmoid}) {
      EXPECT_TRUE(std::isnan(loss->get(1)));
      EXPECT_TRUE(std::isfinite(loss->get(0)) && std::isfinite(loss->get(2)));
    }
  }
}

TEST(CudaOneHot, SetsAllLabelsOfAnImageAndNoneOutside) {
  Gpu gpu;
  for (const std::int64_t classes : {5, 8, 1030}) {
    const auto last = static_cast<double>(classes - 1);
    const OwnedTensor labels(Dtype::i32, {2, 3}, {1, last, 1, -1, last + 1, 0});
    OwnedTensor targets(Dtype::f32, {2, classes});
    gpu.ops->one_hot({.labels = labels, .on = 0.75, .off = 0.25, .targets = targets});
    for (std::int64_t c = 0; c < classes; ++c) {
      EXPECT_EQ(targets.get(c), c == 1 || c == classes - 1 ? 0.75 : 0.25) << c;
      EXPECT_EQ(targets.get(classes + c), c == 0 ? 0.75 : 0.25) << c;
    }
  }
}

}  // namespace
}  // namespace vitrail::testing
