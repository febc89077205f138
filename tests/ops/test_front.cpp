// What the checked verbs add to a back end: marks, and the place of its errors.

#include <array>

#include <gtest/gtest.h>

#include "ops/counting_ops.hpp"
#include "tests/errors.hpp"

namespace vitrail::testing {
namespace {

/// A back end of which every verb fails, at a place that it has looked up.
class FailingOps final : public Ops {
 public:
  [[nodiscard]] std::string_view name() const noexcept override { return "failing"; }
  [[nodiscard]] Dtype real() const noexcept override { return Dtype::f32; }
#define VITRAIL_FAILING(verb, Arguments) \
  void run(const Arguments&) override { fail(ExitCode::other, {text_of(activity().look()), "", ""}); }
  VITRAIL_VERBS(VITRAIL_FAILING)
#undef VITRAIL_FAILING
};

TEST(Front, ABackEndsErrorNamesTheVerbAndTheLayer) {
  std::array<float, 4> x{}, y{};
  FailingOps ops;
  const auto call = [&] { ops.tanh_forward({.x = {x.data(), {4}, Dtype::f32}, .y = {y.data(), {4}, Dtype::f32}}); };
  EXPECT_STREQ(error_of(call).what(), "in tanh_forward, before the first step in tanh_forward");
  Activity activity;
  ops.watch(activity);
  activity.step(2);
  activity.layer(5);
  EXPECT_STREQ(error_of(call).what(), "in tanh_forward, layer 5, step 2 in tanh_forward, layer 5");
}

TEST(Front, WrongArgumentsAreSaidByTheirCheckAndMarkNothing) {
  std::array<float, 4> x{}, y{};
  FailingOps ops;
  const std::int64_t marks = ops.activity().look().marks;
  const Error error = error_of([&] {
    ops.tanh_forward({.x = {x.data(), {4}, Dtype::f32}, .y = {y.data(), {3}, Dtype::f32}});
  });
  EXPECT_EQ(error.parts(), "");
  EXPECT_EQ(ops.activity().look().marks, marks);
}

TEST(Front, ADecoratorMarksTheActivityOfItsBackEndOnce) {
  std::array<float, 4> x{}, y{};
  const auto inner = make_cpu_ops(1);
  const auto device = make_cpu_device();
  Activity activity;
  inner->watch(activity);
  CountingOps counting(*inner, *device);
  counting.tanh_forward({.x = {x.data(), {4}, Dtype::f32}, .y = {y.data(), {4}, Dtype::f32}});
  EXPECT_EQ(activity.look().marks, 2) << "its begin and its end";
  EXPECT_STREQ(activity.look().what, "tanh_forward");
  EXPECT_FALSE(activity.look().inside);
}

}  // namespace
}  // namespace vitrail::testing
