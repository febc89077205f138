#include <gtest/gtest.h>

#include "convert/mapped_source.hpp"
#include "tests/convert/memory_tensors.hpp"
#include "tests/convert/sample_tensors.hpp"
#include "tests/errors.hpp"

namespace vitrail {
namespace {

using testing::error_of;
using testing::expect_says;
using testing::MemorySource;
using testing::read_values;
using Values = std::vector<float>;

/// The only tensor of a mapping.
Values mapped(TensorSource& from, const std::vector<TensorPart>& parts, std::int64_t stretch = 1 << 20) {
  MappedSource source(from, parts);
  return read_values(source, source.tensors()[0], stretch);
}

TEST(MappedSource, TransposesTheMatrixOfEveryExpert) {
  MemorySource from;
  from.add("w", {2, 3, 2});  // expert 0: [1 2; 3 4; 5 6]
  const TensorPart part{
      .to = "kernel", .to_shape = {2, 2, 3}, .from = "w", .from_shape = {2, 3, 2}, .lead = 2, .a = 2, .c = 3};
  EXPECT_EQ(mapped(from, {part}), (Values{1, 3, 5, 2, 4, 6, 7, 9, 11, 8, 10, 12}));
}

TEST(MappedSource, ReversesThreeAxes) {
  MemorySource from;
  from.add("w", {2, 3, 4});  // w(c, b, a) = 12 c + 4 b + a + 1
  const TensorPart part{
      .to = "kernel", .to_shape = {4, 3, 2}, .from = "w", .from_shape = {2, 3, 4}, .a = 4, .b = 3, .c = 2};
  const Values values = mapped(from, {part});
  for (int a = 0; a < 4; ++a) {
    for (int b = 0; b < 3; ++b) {
      for (int c = 0; c < 2; ++c) {
        EXPECT_EQ(values[static_cast<std::size_t>((a * 3 + b) * 2 + c)], static_cast<float>(12 * c + 4 * b + a + 1));
      }
    }
  }
}

std::vector<TensorPart> two_halves() {
  return {{.to = "both", .to_shape = {4}, .from = "x", .from_shape = {2}, .a = 2},
          {.to = "both", .to_shape = {4}, .from = "y", .from_shape = {2}, .to_first = 2, .a = 2}};
}

TEST(MappedSource, JoinsTensorsAndTakesThemApart) {
  MemorySource from;
  from.add("x", {2});
  from.add("y", {2}, 10.0F);
  MappedSource joined(from, two_halves());
  EXPECT_EQ(read_values(joined, joined.tensors()[0]), (Values{1, 2, 11, 12}));
  MappedSource apart(joined, turned_round(two_halves()));
  ASSERT_EQ(apart.tensors().size(), 2U);
  EXPECT_EQ(read_values(apart, apart.tensors()[1]), (Values{11, 12}));
}

TEST(MappedSource, LeavesZerosWhereNoPartIs) {
  MemorySource from;
  from.add("x", {2});
  const TensorPart part{.to = "t", .to_shape = {5}, .from = "x", .from_shape = {2}, .to_first = 2, .a = 2};
  EXPECT_EQ(mapped(from, {part}), (Values{0, 0, 1, 2, 0}));
}

TEST(MappedSource, GivesTheSameInStretchesOfAnySize) {
  MemorySource from;
  from.add("x", {3, 5, 7});
  from.add("y", {4});
  const std::vector<TensorPart> parts = {
      {.to = "t", .to_shape = {110}, .from = "x", .from_shape = {3, 5, 7}, .to_first = 1, .lead = 3, .a = 7, .c = 5},
      {.to = "t", .to_shape = {110}, .from = "y", .from_shape = {4}, .to_first = 106, .a = 4}};
  const Values whole = mapped(from, parts);
  for (std::int64_t stretch = 1; stretch < 110; ++stretch) EXPECT_EQ(mapped(from, parts, stretch), whole) << stretch;
}

TEST(MappedSource, TurnedRoundTwiceIsTheFileAgain) {
  MemorySource from;
  from.add("w", {2, 33, 70});
  const std::vector<TensorPart> parts = {
      {.to = "k", .to_shape = {2, 70, 33}, .from = "w", .from_shape = {2, 33, 70}, .lead = 2, .a = 70, .c = 33}};
  EXPECT_EQ(turned_round(turned_round(parts)), parts);
  MappedSource ours(from, parts);
  EXPECT_EQ(mapped(ours, turned_round(parts)), from.values("w"));
}

TEST(MappedSource, HoldsOneExpertsMatrixAtATime) {
  MemorySource from;
  from.add("w", {16, 3, 5});
  const TensorPart part{
      .to = "k", .to_shape = {16, 5, 3}, .from = "w", .from_shape = {16, 3, 5}, .lead = 16, .a = 5, .c = 3};
  (void)mapped(from, {part});
  EXPECT_EQ(from.largest_read, 15);
}

TEST(MappedSource, RefusesElementsThatAreNotThere) {
  MemorySource from;
  from.add("x", {2});
  from.add("y", {2});
  MappedSource source(from, two_halves());
  Values values(3);
  expect_says(error_of([&] {
                source.read("both", 2, {values.data(), {3}, Dtype::f32});
              }),
              "both has no elements 2 to 5");
  expect_says(error_of([&] { source.read("none", 0, {values.data(), {3}, Dtype::f32}); }), "no tensor none");
}

TEST(ExpectTensors, NamesWhatIsMissingIllShapedOrUnknown) {
  const std::vector<TensorPart> parts = two_halves();
  const auto refusal = [&](const std::vector<TensorInfo>& tensors) {
    return error_of([&] { expect_tensors(parts, tensors, "file.npz"); });
  };
  const TensorInfo x{"x", {2}, Dtype::f32};
  EXPECT_EQ(refusal({x, {"y", {2}, Dtype::f32}}).code(), ExitCode::done);
  expect_says(refusal({x}), "file.npz has no tensor y");
  expect_says(refusal({x, {"y", {3}, Dtype::f32}}), "file.npz: y is [3]");
  expect_says(refusal({x, {"y", {2}, Dtype::f32}, {"z", {9}, Dtype::f32}}), "file.npz has z [9]");
}

TEST(ExpectTensors, GuessesWhatAMisspeltNameMeans) {
  const std::vector<TensorPart> parts = {{.to = "k", .to_shape = {2}, .from = "kernel", .from_shape = {2}, .a = 2}};
  const std::vector<TensorInfo> tensors = {{"kernle", {2}, Dtype::f32}};
  expect_says(error_of([&] { expect_tensors(parts, tensors, "f"); }), "Did you mean 'kernle'?");
}

}  // namespace
}  // namespace vitrail
