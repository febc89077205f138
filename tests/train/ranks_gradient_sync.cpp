#include <gtest/gtest.h>

#include "base/philox.hpp"
#include "tests/ranks_main.hpp"
#include "train/gradient_sync.hpp"

namespace vitrail {
namespace {

using test::world;

/// One tensor of three blocks and a bit, and a small one.
std::vector<ParameterSpec> table() { return {{"large", {3 * kBlockElements + 100}}, {"small", {33}}}; }

/// The gradient of unit u at element i: of very different sizes, so that the order of additions shows.
double gradient_of(std::int64_t unit, std::int64_t i) {
  const Philox random(1, Purpose::test, static_cast<std::uint64_t>(unit));
  return random.normal(static_cast<std::uint64_t>(i)) * std::pow(10.0, static_cast<double>(unit % 5) - 2);
}

/// Sum of units first .. first + count - 1 (a power of two) as a binary tree, in f32.
float tree(std::int64_t first, std::int64_t count, std::int64_t i) {
  if (count == 1) return static_cast<float>(gradient_of(first, i));
  return tree(first, count / 2, i) + tree(first + count / 2, count / 2, i);
}

struct Case {
  std::int64_t passes;
  std::int64_t units_per_tree;
};

/// Runs a step and compares this owner's slice with the tree, bit by bit.
void expect_tree(const Case& c) {
  const std::int64_t ranks = world().size();
  const std::int64_t units = c.passes * ranks;
  if (units % c.units_per_tree != 0) return;
  const auto device = make_cpu_device();
  const auto ops = make_cpu_ops(1);
  const FlatLayout layout(table(), 0, 0, ranks);
  const auto lay_out = [&](Arena& arena) {
    return GradientSync(arena, *device, Dtype::f32, layout, world(), c.units_per_tree, units);
  };
  Arena measured("gradients");
  (void)lay_out(measured);
  Arena arena("gradients", *device, measured.bytes());
  GradientSync sync = lay_out(arena);
  std::vector<float> gradient(static_cast<std::size_t>(layout.elements()));
  for (int step = 0; step < 2; ++step) {  // the second step must start anew
    for (std::int64_t pass = 0; pass < c.passes; ++pass) {
      for (std::int64_t i = 0; i < layout.elements(); ++i) {
        gradient[static_cast<std::size_t>(i)] = static_cast<float>(gradient_of(pass * ranks + world().rank(), i));
      }
      sync.add_pass(*ops, ConstTensor(gradient.data(), {layout.elements()}, Dtype::f32), pass);
    }
    const FlatSlice& mine = layout.slice(world().rank());
    ASSERT_EQ(sync.slice().elements(), mine.count);
    const auto* sum = sync.slice().as<float>();
    for (std::int64_t i = 0; i < mine.count; ++i) {
      float wanted = tree(0, c.units_per_tree, mine.begin + i);
      for (std::int64_t first = c.units_per_tree; first < units; first += c.units_per_tree) {
        wanted += tree(first, c.units_per_tree, mine.begin + i);
      }
      ASSERT_EQ(sum[i], wanted) << "element " << mine.begin + i << " with " << c.passes << " passes, trees of "
                                << c.units_per_tree;
    }
  }
}

TEST(GradientSync, SumsUnitsInTheOrderOfTheTree) {
  for (const Case& c : {Case{1, 1}, Case{1, 2}, Case{1, 4}, Case{2, 1}, Case{2, 2}, Case{4, 4}, Case{4, 8}, Case{3, 1},
                        Case{6, 2}, Case{8, 8}}) {
    expect_tree(c);
  }
}

TEST(GradientSync, PublishesEveryOwnersSlice) {
  const auto device = make_cpu_device();
  const FlatLayout layout(table(), 0, 0, world().size());
  Arena measured("gradients");
  { GradientSync probe(measured, *device, Dtype::f32, layout, world(), 1, world().size()); }
  Arena arena("gradients", *device, measured.bytes());
  GradientSync sync(arena, *device, Dtype::f32, layout, world(), 1, world().size());
  std::vector<float> values(static_cast<std::size_t>(layout.elements()), -1);
  const FlatSlice& mine = layout.slice(world().rank());
  for (std::int64_t i = 0; i < mine.count; ++i) {
    values[static_cast<std::size_t>(mine.begin + i)] = static_cast<float>(mine.begin + i);
  }
  sync.publish(Tensor(values.data(), {layout.elements()}, Dtype::f32));
  for (std::int64_t i = 0; i < layout.elements(); ++i) {
    ASSERT_EQ(values[static_cast<std::size_t>(i)], static_cast<float>(i));
  }
}

TEST(GradientSync, RefusesUnitsThatDoNotFit) {
  const auto device = make_cpu_device();
  const FlatLayout layout(table(), 0, 0, world().size());
  Arena arena("gradients");
  EXPECT_THROW(GradientSync(arena, *device, Dtype::f32, layout, world(), 3, 3 * world().size()), Error);
}

}  // namespace
}  // namespace vitrail
