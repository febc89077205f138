#include <chrono>
#include <map>
#include <thread>

#include "base/file.hpp"
#include "base/timer.hpp"
#include "data/loader.hpp"
#include "tests/data/small_split.hpp"

namespace vitrail {
namespace {

class LoaderTest : public SmallSplit {
 protected:
  [[nodiscard]] Dataset dataset() const { return Dataset::open({train_}, "train"); }
  [[nodiscard]] static LoaderPlan plan(std::int64_t ranks, std::int64_t rank, std::int64_t leaves_per_pass = 1) {
    return {.share = {.batch = 64, .leaf_images = 8, .leaves_per_pass = leaves_per_pass, .ranks = ranks, .rank = rank},
            .seed = 3,
            .augmentation = {.shift = 1, .flip = true},
            .end_step = 20};
  }
  // Every image by its global position.
  static void collect(Loader& loader, std::int64_t blocks, std::map<std::int64_t, std::vector<std::uint8_t>>& images) {
    const std::int64_t bytes = kSmallImage.bytes();
    for (std::int64_t k = 0; k < blocks; ++k) {
      const ImageBlock& block = loader.next();
      for (std::int64_t i = 0; i < block.count; ++i) {
        std::vector<std::uint8_t> image(block.images + i * bytes, block.images + (i + 1) * bytes);
        image.push_back(static_cast<std::uint8_t>(block.labels[i]));
        ASSERT_TRUE(images.emplace(block.first_position + i, image).second) << "position twice";
      }
    }
  }
};

TEST_F(LoaderTest, GivesTheSameImagesInAnyLayout) {
  std::map<std::int64_t, std::vector<std::uint8_t>> alone;
  Loader one(dataset(), plan(1, 0, 8));
  EXPECT_EQ(one.steps(), 20);
  collect(one, 20, alone);
  ASSERT_EQ(alone.size(), 20U * 64U);
  for (const std::int64_t leaves_per_pass : {1, 2}) {
    std::map<std::int64_t, std::vector<std::uint8_t>> together;
    for (std::int64_t rank = 0; rank < 4; ++rank) {
      Loader part(dataset(), plan(4, rank, leaves_per_pass));
      collect(part, 20 * (2 / leaves_per_pass), together);
    }
    EXPECT_EQ(together, alone);
  }
}

TEST_F(LoaderTest, GivesTheImagesOfTheSamplerAugmented) {
  Loader loader(dataset(), plan(2, 1, 2));
  const Sampler sampler(1000, 3);
  for (std::int64_t step = 0; step < 20; ++step) {
    for (std::int64_t pass = 0; pass < 2; ++pass) {
      const ImageBlock& block = loader.next();
      ASSERT_EQ(block.step, step);
      ASSERT_EQ(block.pass, pass);
      ASSERT_EQ(block.count, 16);
      ASSERT_EQ(block.valid, 16);
      ASSERT_EQ(block.first_position, step * 64 + (pass * 2 + 1) * 16);
      for (std::int64_t i = 0; i < block.count; ++i) {
        const Sampler::Place place = sampler.at(block.first_position + i);
        ASSERT_EQ(block.labels[i], place.sample % kSmallClasses);
        const std::vector<std::uint8_t> plain(static_cast<std::size_t>(kSmallImage.bytes()),
                                              static_cast<std::uint8_t>(place.sample % 251));
        std::vector<std::uint8_t> expected(plain.size());
        augment(draw_augmentation({.shift = 1, .flip = true}, 3, place.epoch, place.sample), kSmallImage, plain.data(),
                expected.data());
        ASSERT_TRUE(std::equal(expected.begin(), expected.end(), block.images + i * kSmallImage.bytes()));
      }
    }
  }
  EXPECT_THROW(loader.next(), Error);  // the plan is over
}

TEST_F(LoaderTest, ResumesAtAnyStep) {
  std::map<std::int64_t, std::vector<std::uint8_t>> whole;
  Loader from_start(dataset(), plan(1, 0, 8));
  collect(from_start, 20, whole);
  LoaderPlan later = plan(1, 0, 8);
  later.first_step = 17;
  std::map<std::int64_t, std::vector<std::uint8_t>> rest;
  Loader resumed(dataset(), later);
  EXPECT_EQ(resumed.steps(), 3);
  collect(resumed, 3, rest);
  whole.erase(whole.begin(), whole.lower_bound(17 * 64));
  EXPECT_EQ(rest, whole);
}

TEST_F(LoaderTest, EvaluatesEveryImageOnceAndPadsTheLastBatch) {
  std::vector<int> seen(1000);
  for (std::int64_t rank = 0; rank < 2; ++rank) {
    LoaderPlan evaluation = plan(2, rank, 4);
    evaluation.order = Order::sequential;
    Loader loader(dataset(), evaluation);
    ASSERT_EQ(loader.steps(), 16);  // 15 full batches and 40 images
    for (std::int64_t step = 0; step < 16; ++step) {
      const ImageBlock& block = loader.next();
      ASSERT_EQ(block.count, 32);
      ASSERT_EQ(block.valid, step < 15 ? 32 : (rank == 0 ? 32 : 8));
      for (std::int64_t i = 0; i < block.count; ++i) {
        const std::int64_t number = block.first_position + i;
        const bool is_image = i < block.valid;
        ASSERT_EQ(block.labels[i], is_image ? number % kSmallClasses : -1);
        ASSERT_EQ(block.images[i * kSmallImage.bytes()], is_image ? number % 251 : 0);
        if (is_image) ++seen[static_cast<std::size_t>(number)];
      }
    }
  }
  EXPECT_EQ(seen, std::vector<int>(1000, 1));
}

TEST_F(LoaderTest, CarriesAllLabelsOfAnImageAndNoneOfPadding) {
  write_multi_label_split(folder_ / "multi", 100, 3, 2);
  for (const Order order : {Order::shuffled, Order::sequential}) {
    LoaderPlan both = plan(2, 1, 4);
    both.order = order;
    Loader loader(Dataset::open({folder_ / "multi"}, "train"), both);
    const Sampler sampler(100, 3);
    for (int step = 0; step < 2; ++step) {
      const ImageBlock& block = loader.next();
      ASSERT_EQ(block.labels_per_image, 2);
      ASSERT_EQ(block.valid, order == Order::sequential && step == 1 ? 4 : 32);
      for (std::int64_t i = 0; i < block.count; ++i) {
        const std::int64_t at = block.first_position + i;
        std::vector<std::int32_t> expected{-1, -1};
        if (i < block.valid) expected = small_labels(order == Order::shuffled ? sampler.at(at).sample : at, 2);
        ASSERT_EQ(std::vector<std::int32_t>(block.labels + 2 * i, block.labels + 2 * i + 2), expected);
      }
    }
  }
}

TEST_F(LoaderTest, ThrowsTheThreadsErrorInPlaceOfTheBlock) {
  Dataset opened = dataset();
  const std::filesystem::path shard = train_ / "shard-00001.h5";
  std::string bytes = read_file(shard, ExitCode::data);
  for (char& byte : bytes) byte = byte == '\x64' ? '\x65' : byte;
  {
    // In place: the shard is open already.
    std::fstream stream(shard, std::ios::in | std::ios::out | std::ios::binary);
    stream.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  }
  LoaderPlan evaluation = plan(1, 0, 8);
  evaluation.order = Order::sequential;
  Loader loader(std::move(opened), evaluation);
  for (int step = 0; step < 5; ++step) static_cast<void>(loader.next());  // images 0 .. 319: the first shard
  EXPECT_TRUE(says(data_error_of([&] { loader.next(); }), "shard-00001.h5"));
  EXPECT_TRUE(says(data_error_of([&] { loader.next(); }), "shard-00001.h5"));  // and again, rather than hang
}

TEST_F(LoaderTest, WorksAheadOnlyAsFarAsItsBuffersAndStopsAtOnce) {
  LoaderPlan endless = plan(1, 0, 8);
  endless.end_step = std::int64_t{1} << 40;
  const Stopwatch watch;
  {
    Loader loader(dataset(), endless);
    const ImageBlock first = loader.next();
    const std::vector<std::uint8_t> copy(first.images, first.images + first.count * kSmallImage.bytes());
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    // Not overwritten while it is in use, however long the thread has had.
    EXPECT_TRUE(std::equal(copy.begin(), copy.end(), first.images));
  }
  EXPECT_LT(watch.seconds(), 10.0);
}

TEST_F(LoaderTest, CountsTheTimeLostWaiting) {
  Loader loader(dataset(), plan(1, 0, 8));
  static_cast<void>(loader.next());
  const double waited = loader.take_wait_s();
  EXPECT_GT(waited, 0.0);
  EXPECT_EQ(loader.take_wait_s(), 0.0);
}

TEST_F(LoaderTest, RefusesImpossiblePlans) {
  EXPECT_THROW(Loader(dataset(), plan(3, 0)), Error);
  LoaderPlan cramped = plan(1, 0);
  cramped.blocks_ahead = 1;
  EXPECT_THROW(Loader(dataset(), cramped), Error);
}

}  // namespace
}  // namespace vitrail
