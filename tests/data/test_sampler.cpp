#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>
#include <vector>

#include <gtest/gtest.h>

#include "base/error.hpp"
#include "data/sampler.hpp"

namespace vitrail {
namespace {

TEST(Sampler, ShowsEveryImageOnceInEveryEpoch) {
  for (const std::int64_t images : {1, 2, 3, 5, 16, 17, 1000, 4097}) {
    const Sampler sampler(images, 42);
    for (std::int64_t epoch = 0; epoch < 3; ++epoch) {
      std::set<std::int64_t> seen;
      for (std::int64_t i = 0; i < images; ++i) {
        const Sampler::Place place = sampler.at(epoch * images + i);
        ASSERT_EQ(place.epoch, epoch);
        ASSERT_GE(place.sample, 0);
        ASSERT_LT(place.sample, images);
        seen.insert(place.sample);
      }
      ASSERT_EQ(static_cast<std::int64_t>(seen.size()), images) << "epoch " << epoch;
    }
  }
}

std::vector<std::int64_t> order(std::int64_t images, std::uint64_t seed, std::int64_t epoch) {
  const Sampler sampler(images, seed);
  std::vector<std::int64_t> samples;
  for (std::int64_t i = 0; i < images; ++i) samples.push_back(sampler.at(epoch * images + i).sample);
  return samples;
}

TEST(Sampler, IsAFunctionOfSeedAndEpoch) {
  EXPECT_EQ(order(1000, 1, 2), order(1000, 1, 2));
  EXPECT_NE(order(1000, 1, 2), order(1000, 2, 2));
  EXPECT_NE(order(1000, 1, 2), order(1000, 1, 3));
  EXPECT_NE(order(1000, 1, 2), order(1000, 1 + (std::uint64_t{1} << 32), 2));
}

// The order of a run must stay what it is: resumed runs and recorded results depend on it.
TEST(Sampler, KeepsTheOrderOfEarlierVersions) {
  const std::vector<std::int64_t> samples = order(10, 7, 1);
  EXPECT_EQ(samples, (std::vector<std::int64_t>{0, 1, 3, 4, 2, 5, 9, 8, 7, 6}));
}

// Every image comes to every tenth of the epoch equally often, and neighbours in the file do not stay neighbours.
TEST(Sampler, SpreadsImagesEvenly) {
  constexpr std::int64_t kImages = 1000;
  constexpr int kSeeds = 400;
  std::vector<int> hits(100);  // [tenth of the file][tenth of the epoch]
  int still_neighbours = 0;
  for (std::uint64_t seed = 0; seed < kSeeds; ++seed) {
    const std::vector<std::int64_t> samples = order(kImages, seed, 0);
    for (std::size_t i = 0; i < samples.size(); ++i) {
      ++hits[static_cast<std::size_t>(samples[i] / 100) * 10 + i / 100];
      still_neighbours += i > 0 && std::abs(samples[i] - samples[i - 1]) == 1 ? 1 : 0;
    }
  }
  const double expected = kSeeds * kImages / 100.0;
  double chi2 = 0;
  for (const int count : hits) chi2 += (count - expected) * (count - expected) / expected;
  // 81 degrees of freedom; sampling without replacement makes it a little smaller. 150 is far out: p < 1e-5.
  EXPECT_LT(chi2, 150);
  EXPECT_GT(chi2, 30);
  EXPECT_NEAR(still_neighbours, 2 * kSeeds, 5 * std::sqrt(2.0 * kSeeds));
}

TEST(Sampler, RefusesAnEmptyDataset) { EXPECT_THROW(Sampler(0, 1), Error); }

TEST(RankShare, CoversEveryPositionOnceInPassMajorOrder) {
  for (const std::int64_t ranks : {1, 2, 4}) {
    for (const std::int64_t leaves_per_pass : {1, 2}) {
      std::vector<int> seen(64);
      for (std::int64_t rank = 0; rank < ranks; ++rank) {
        const RankShare share{
            .batch = 64, .leaf_images = 8, .leaves_per_pass = leaves_per_pass, .ranks = ranks, .rank = rank};
        share.check();
        ASSERT_EQ(share.passes() * leaves_per_pass * ranks, 8);
        for (std::int64_t pass = 0; pass < share.passes(); ++pass) {
          const std::int64_t leaf = (pass * ranks + rank) * leaves_per_pass;
          ASSERT_EQ(share.first_position(5, pass), 5 * 64 + leaf * 8);
          for (std::int64_t i = 0; i < share.pass_images(); ++i) {
            ++seen[static_cast<std::size_t>(share.first_position(5, pass) + i - 5 * 64)];
          }
        }
      }
      EXPECT_TRUE(std::all_of(seen.begin(), seen.end(), [](int count) { return count == 1; }));
    }
  }
}

TEST(RankShare, RefusesBatchesThatAreNotWholePasses) {
  EXPECT_THROW((RankShare{.batch = 60, .leaf_images = 8}.check()), Error);
  EXPECT_THROW((RankShare{.batch = 64, .leaf_images = 8, .leaves_per_pass = 1, .ranks = 3, .rank = 0}.check()), Error);
  EXPECT_THROW((RankShare{.batch = 64, .leaf_images = 8, .leaves_per_pass = 3, .ranks = 1, .rank = 0}.check()), Error);
  EXPECT_THROW((RankShare{.batch = 64, .leaf_images = 8, .leaves_per_pass = 1, .ranks = 2, .rank = 2}.check()), Error);
  EXPECT_THROW((RankShare{.batch = 0, .leaf_images = 8}.check()), Error);
}

}  // namespace
}  // namespace vitrail
