#include <vector>

#include <gtest/gtest.h>

#include "convert/tensor_list.hpp"
#include "tests/convert/sample_tensors.hpp"
#include "tests/errors.hpp"

namespace vitrail {
namespace {

using testing::error_of;
using testing::expect_says;

TEST(TensorList, RefusesShapesThatCannotBe) {
  const auto elements = [](const std::vector<std::int64_t>& lengths, Dtype dtype = Dtype::f32) {
    return expect_elements(lengths, dtype, "tensor 'x'");
  };
  EXPECT_EQ(elements({}), 1);
  EXPECT_EQ(elements({3, 0}), 0);
  EXPECT_EQ(elements({std::int64_t{1} << 60}), std::int64_t{1} << 60);
  EXPECT_EQ(elements({0, std::int64_t{1} << 62}, Dtype::u8), 0);
  expect_says(error_of([&] { elements({std::int64_t{1} << 61}); }), "tensor 'x' is too large");
  expect_says(error_of([&] { elements({std::int64_t{1} << 32, std::int64_t{1} << 32}); }), "too large");
  expect_says(error_of([&] { elements({0, std::int64_t{1} << 32, std::int64_t{1} << 32}); }), "too large");
  expect_says(error_of([&] { elements({2, -1}); }), "an axis of length -1");
  expect_says(error_of([&] { elements({1, 1, 1, 1, 1, 1, 1}); }), "has 7 axes");
}

TEST(TensorList, FindsTensorsByNameAndRefusesTwoOfOneName) {
  const TensorList list("a.npz", {{"head/bias", {3}, Dtype::f32}, {"head/kernel", {2, 3}, Dtype::f32}});
  float room = 0;
  EXPECT_EQ(list.expect_stretch("head/kernel", 5, {&room, {1}, Dtype::f32}), 1U);
  EXPECT_EQ(list.expect_stretch("head/kernel", 6, {&room, {0}, Dtype::f32}), 1U);
  const auto said = [&](const std::string& name, std::int64_t first, Tensor to) {
    return error_of([&] { (void)list.expect_stretch(name, first, to); });
  };
  expect_says(said("head/kernal", 0, {&room, {1}, Dtype::f32}),
              "'a.npz' has no tensor 'head/kernal' (it is needed). Did you mean 'head/kernel'?");
  expect_says(said("head/bias", 0, {&room, {1}, Dtype::f64}),
              "tensor 'head/bias' of 'a.npz' cannot be read as f64 (it has f32");
  expect_says(said("head/bias", 0, {&room, {1}, Dtype::f32, DeviceKind::cuda}), "host memory");
  expect_says(said("head/bias", 2, {&room, {2}, Dtype::f32}), "no elements 2 .. 4");
  expect_says(said("head/bias", -1, {&room, {1}, Dtype::f32}), "no elements -1");
  expect_says(error_of([] {
                TensorList("a.npz", {{"x", {1}, Dtype::f32}, {"x", {2}, Dtype::f32}});
              }),
              "tensor 'x' of 'a.npz' is there twice");
  constexpr std::int64_t half_of_all = std::int64_t{1} << 61;
  expect_says(error_of([] {
                TensorList("a", {{"x", {half_of_all}, Dtype::u8}, {"y", {half_of_all + 1}, Dtype::u8}});
              }),
              "'a' is too large");
}

TEST(TensorOrder, FollowsTheListAndPassesTensorsWithoutElements) {
  const TensorList list("a", {{"none", {0}, Dtype::f32},
                              {"x", {2, 2}, Dtype::f32},
                              {"no", {3, 0}, Dtype::u8},
                              {"y", {}, Dtype::u8},
                              {"nil", {0}, Dtype::f32}});
  TensorOrder order(list);
  const std::vector<float> numbers(4);
  const auto place_f32 = [&](std::int64_t count) { return order.place({numbers.data(), {count}, Dtype::f32}); };
  EXPECT_EQ(place_f32(1).tensor, 1U);
  EXPECT_EQ(place_f32(0).first, 1);
  expect_says(error_of([&] { place_f32(4); }), "tensor 'x' of 'a' is given 4 elements (3 of its 4 are missing)");
  expect_says(error_of([&] { order.expect_complete(); }), "tensor 'x' of 'a' is not complete (1 of 4");
  EXPECT_EQ(place_f32(3).first, 1);
  expect_says(error_of([&] { place_f32(1); }), "tensor 'y' of 'a' is given f32 (it was announced as u8");
  EXPECT_EQ(order.place({numbers.data(), {}, Dtype::u8}).tensor, 3U);
  order.expect_complete();
  expect_says(error_of([&] { place_f32(1); }), "more than it was made for");
}

}  // namespace
}  // namespace vitrail
