// Calls of dropout, bfloat16 and running averages for test_cpu_ops.cpp, and what is particular to them.

#include <bit>
#include <cmath>

#include <gtest/gtest.h>

#include "ops/dropout_mask.hpp"
#include "tests/ops/verb_cases.hpp"

namespace vitrail::testing {

namespace {

DropoutDraw draw_of(double rate, std::int64_t run = 1, std::int64_t stride = 1, std::int64_t share = 1) {
  return {.rate = rate,
          .seed = 20240229,
          .step = 17,
          .layer = 5,
          .first = 1003,
          .run = run,
          .stride = stride,
          .share = share};
}

VerbCase dropout_case(std::int64_t n, const DropoutDraw& draw) {
  const auto percent = static_cast<std::int64_t>(std::lround(100 * draw.rate));
  return {case_name("dropout", {n, percent, draw.run, draw.stride, draw.share}),
          [=](Ops& ops) -> std::vector<OwnedTensor> {
            const Dtype real = ops.real(), stored = ops.stored();
            const auto x = random_tensor(stored, {n}, 1);
            const auto residual = random_tensor(real, {n}, 2);
            OwnedTensor y(stored, {n}), mask(real, {n}), both(real, {n}), over_x = x, over_residual = residual;
            ops.dropout({.x = x, .residual = {}, .draw = draw, .y = y});
            ops.dropout({.x = {}, .residual = {}, .draw = draw, .y = mask});
            ops.dropout({.x = x, .residual = residual, .draw = draw, .y = both});
            ops.dropout({.x = over_x, .residual = residual, .draw = draw, .y = over_x});
            ops.dropout({.x = x, .residual = over_residual, .draw = draw, .y = over_residual});
            return {y, mask, both, over_x, over_residual};
          }};
}

VerbCase bf16_case(std::int64_t n) {
  return {case_name("bf16", {n}), [=](Ops& ops) -> std::vector<OwnedTensor> {
            const Dtype real = ops.real();
            const auto x = random_tensor(real, {n}, 1);
            const auto residual = random_tensor(real, {n}, 2);
            OwnedTensor rounded(Dtype::bf16, {n}), y(real, {n}), sum(real, {n}), over = residual;
            ops.to_bf16({.x = x, .y = rounded});
            ops.from_bf16({.x = rounded, .residual = {}, .y = y});
            ops.from_bf16({.x = rounded, .residual = residual, .y = sum});
            ops.from_bf16({.x = rounded, .residual = over, .y = over});
            return {rounded, y, sum, over};
          }};
}

VerbCase average_case(std::int64_t n) {
  return {case_name("running_average", {n}), [=](Ops& ops) -> std::vector<OwnedTensor> {
            const auto x = random_tensor(ops.real(), {n}, 1);
            auto y = random_tensor(ops.real(), {n}, 2);
            ops.running_average({.x = x, .decay = 0.9, .y = y});
            return {y};
          }};
}

}  // namespace

std::vector<VerbCase> elementwise_cases() {
  std::vector<VerbCase> cases;
  for (const std::int64_t n : {0, 1, 7, 33, 257, 40000}) {
    for (const double rate : {0.0, 0.3, 0.9}) cases.push_back(dropout_case(n, draw_of(rate)));
    cases.push_back(bf16_case(n));
    cases.push_back(average_case(n));
  }
  for (const std::int64_t n : {257, 40000}) {
    cases.push_back(dropout_case(n, draw_of(0.3, 7, 7)));
    cases.push_back(dropout_case(n, draw_of(0.3, 1, 10)));
    cases.push_back(dropout_case(n, draw_of(0.3, 8, 20)));
    cases.push_back(dropout_case(n, draw_of(0.3, 5, 7, 2)));
    cases.push_back(dropout_case(n, draw_of(0.3, 33, 257)));
    cases.push_back(dropout_case(n, draw_of(0.3, 5000, 6001)));
    cases.push_back(dropout_case(n, draw_of(0.3, 1, 1, 5)));
    cases.push_back(dropout_case(n, draw_of(0.3, 3, 11, 1500)));
  }
  return cases;
}

// Rank 0 may have the first rows of a leaf and rank 1 the others, in any order and with any neighbours.
TEST(CpuDropout, DecidesByTheIndexAndNotByThePlace) {
  const auto ops = make_cpu_ops(2);
  const std::int64_t rows = 40, width = 35;
  OwnedTensor whole(Dtype::f32, {rows * width});
  DropoutDraw draw = draw_of(0.4);
  ops->dropout({.x = {}, .residual = {}, .draw = draw, .y = whole});
  for (const std::int64_t first : {0, 1, 13, 39}) {
    OwnedTensor row(Dtype::f32, {width});
    draw.first = 1003 + static_cast<std::uint64_t>(first * width);
    ops->dropout({.x = {}, .residual = {}, .draw = draw, .y = row});
    for (std::int64_t i = 0; i < width; ++i) ASSERT_EQ(row.get(i), whole.get(first * width + i)) << first;
  }
  // Every fourth row, called as one tensor.
  OwnedTensor some(Dtype::f32, {rows / 4 * width});
  draw.first = 1003 + 2 * static_cast<std::uint64_t>(width);
  draw.run = width;
  draw.stride = 4 * width;
  ops->dropout({.x = {}, .residual = {}, .draw = draw, .y = some});
  for (std::int64_t i = 0; i < some.elements(); ++i)
    ASSERT_EQ(some.get(i), whole.get((4 * (i / width) + 2) * width + i % width)) << i;
}

TEST(CpuDropout, HasTheFactorsOfTheMaskRoundedOnce) {
  const auto ops = make_cpu_ops(2);
  for (const double rate : {1e-9, 0.3, 0.5, 0.99, 1 - 0x1p-53}) {
    for (std::uint64_t first :
         {std::uint64_t{0}, std::uint64_t{1003}, (std::uint64_t{1} << 34) - 130, ~std::uint64_t{0} / 2}) {
      DropoutDraw draw = draw_of(rate);
      draw.first = first;
      const DropoutMask mask(draw);
      for (const std::int64_t n : {1, 3, 33, 257, 3000}) {
        OwnedTensor y(Dtype::f32, {n});
        ops->dropout({.x = {}, .residual = {}, .draw = draw, .y = y});
        for (std::int64_t i = 0; i < n; ++i) {
          const auto expected = static_cast<float>(mask.factor(first + static_cast<std::uint64_t>(i)));
          ASSERT_EQ(y.as<float>()[i], expected) << rate << ", element " << i << " of " << n << " from " << first;
        }
      }
    }
  }
}

TEST(CpuBf16, HasTheBitsOfBaseForEveryKindOfNumber) {
  const auto ops = make_cpu_ops(2);
  OwnedTensor x(Dtype::f32, {6 << 16}), back(Dtype::f32, {6 << 16}), y(Dtype::bf16, {6 << 16});
  for (std::uint32_t i = 0; i < 6U << 16; ++i) {
    constexpr std::uint32_t kLower[] = {0x0U, 0x1U, 0x7FFFU, 0x8000U, 0x8001U, 0xFFFFU};
    x.as<float>()[i] = std::bit_cast<float>(i / 6 << 16 | kLower[i % 6]);
  }
  ops->to_bf16({.x = x, .y = y});
  ops->from_bf16({.x = y, .residual = {}, .y = back});
  for (std::int64_t i = 0; i < x.elements(); ++i) {
    ASSERT_EQ(y.as<Bf16>()[i].bits, to_bf16(x.as<float>()[i]).bits) << std::hex << i;
    ASSERT_EQ(std::bit_cast<std::uint32_t>(back.as<float>()[i]), std::uint32_t{y.as<Bf16>()[i].bits} << 16);
  }
}

}  // namespace vitrail::testing
