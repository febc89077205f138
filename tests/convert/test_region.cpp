#include <gtest/gtest.h>

#include "convert/region.hpp"

namespace vitrail {
namespace {

/// The tensor's elements that are in the region, in order, found by looking at each.
std::vector<std::int64_t> elements_one_by_one(const Shape& tensor, const Region& region) {
  std::vector<std::int64_t> found;
  for (std::int64_t element = 0; element < tensor.elements(); ++element) {
    std::int64_t rest = element;
    bool inside = true;
    for (int axis = tensor.axes() - 1; axis >= 0; --axis) {
      const Interval& interval = region[static_cast<std::size_t>(axis)];
      const std::int64_t at = rest % tensor[axis];
      rest /= tensor[axis];
      inside = inside && at >= interval.begin && at < interval.end;
    }
    if (inside) found.push_back(element);
  }
  return found;
}

const Shape kShape{4, 1, 3, 5};
const std::vector<Region> kRegions{{{0, 4}, {0, 1}, {0, 3}, {0, 5}}, {{1, 3}, {0, 1}, {0, 3}, {0, 5}},
                                   {{1, 4}, {0, 1}, {1, 3}, {0, 5}}, {{0, 4}, {0, 1}, {0, 3}, {2, 4}},
                                   {{3, 4}, {0, 1}, {2, 3}, {4, 5}}, {{2, 2}, {0, 1}, {0, 3}, {0, 5}}};

TEST(Regions, CountTheElementsBeforeAnyOther) {
  for (const Region& region : kRegions) {
    const std::vector<std::int64_t> all = elements_one_by_one(kShape, region);
    EXPECT_EQ(elements_of(region), std::ssize(all));
    for (std::int64_t element = 0; element <= kShape.elements(); ++element) {
      const auto before = std::lower_bound(all.begin(), all.end(), element) - all.begin();
      EXPECT_EQ(elements_before(kShape, region, element), before) << str(region) << " " << element;
    }
  }
}

TEST(Regions, HandOutTheirElementsInLongRuns) {
  for (const Region& region : kRegions) {
    const std::vector<std::int64_t> all = elements_one_by_one(kShape, region);
    for (std::int64_t first = 0; first <= std::ssize(all); ++first) {
      for (std::int64_t last = first; last <= std::ssize(all); ++last) {
        std::vector<std::int64_t> seen;
        std::int64_t runs = 0;
        for_each_run(kShape, region, first, last, [&](std::int64_t element, std::int64_t count) {
          for (std::int64_t i = 0; i < count; ++i) seen.push_back(element + i);
          ++runs;
        });
        EXPECT_EQ(seen, std::vector<std::int64_t>(all.begin() + first, all.begin() + last));
        EXPECT_LE(runs * run_length(kShape, region), last - first + 2 * run_length(kShape, region));
      }
    }
  }
  EXPECT_EQ(run_length(kShape, kRegions[1]), 30);
  EXPECT_EQ(run_length(kShape, kRegions[2]), 10);
  EXPECT_EQ(run_length(kShape, kRegions[3]), 2);
}

TEST(Regions, OfAScalarAreItsElement) {
  EXPECT_EQ(whole_region({}), Region());
  EXPECT_EQ(elements_of({}), 1);
  EXPECT_EQ(elements_before({}, {}, 0), 0);
  EXPECT_EQ(elements_before({}, {}, 1), 1);
  std::vector<std::int64_t> seen;
  for_each_run({}, {}, 0, 1, [&](std::int64_t element, std::int64_t count) { seen = {element, count}; });
  EXPECT_EQ(seen, (std::vector<std::int64_t>{0, 1}));
}

TEST(Regions, OverlapWhereAllTheirAxesDo) {
  EXPECT_TRUE(overlap({{0, 2}, {0, 2}}, {{1, 3}, {1, 3}}));
  EXPECT_FALSE(overlap({{0, 2}, {0, 2}}, {{1, 3}, {2, 3}}));
  EXPECT_FALSE(overlap({{0, 2}, {0, 2}}, {{2, 3}, {0, 2}}));
}

TEST(Regions, AreOrderedAxisByAxis) {
  EXPECT_LT((Region{{0, 1}, {5, 6}}), (Region{{0, 2}, {0, 1}}));
  EXPECT_LT((Region{{0, 1}, {0, 6}}), (Region{{0, 1}, {1, 2}}));
  EXPECT_EQ(str({{0, 4}, {2, 8}}), "[0:4, 2:8]");
}

}  // namespace
}  // namespace vitrail
