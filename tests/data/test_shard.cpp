#include "base/file.hpp"
#include "data/shard.hpp"
#include "tests/data/small_split.hpp"

namespace vitrail {
namespace {

using ShardTest = SmallSplit;

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  return text.replace(text.find(from), from.size(), to);
}

void expect_images(Dataset& dataset, const std::vector<std::int64_t>& numbers) {
  std::vector<std::uint8_t> images(numbers.size() * static_cast<std::size_t>(kSmallImage.bytes()), 255);
  std::vector<std::int32_t> labels(numbers.size(), -7);
  dataset.read(numbers, images.data(), labels.data());
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    ASSERT_EQ(labels[i], numbers[i] % 1000 % kSmallClasses) << "image " << numbers[i];
    for (std::int64_t byte = 0; byte < kSmallImage.bytes(); ++byte) {
      ASSERT_EQ(images[i * static_cast<std::size_t>(kSmallImage.bytes()) + static_cast<std::size_t>(byte)],
                numbers[i] % 1000 % 251)
          << "image " << numbers[i];
    }
  }
}

TEST_F(ShardTest, ReadsImagesByNumberInAnyOrder) {
  Dataset dataset = Dataset::open({train_}, "train");
  EXPECT_EQ(dataset.images(), 1000);
  EXPECT_EQ(dataset.classes(), kSmallClasses);
  EXPECT_EQ(dataset.image(), kSmallImage);
  EXPECT_EQ(dataset.name(), "small/train");
  expect_images(dataset, {0, 999, 333, 332, 334, 666, 667, 5, 5, 998});
  expect_images(dataset, {});
  std::vector<std::int64_t> all(1000);
  for (std::size_t i = 0; i < all.size(); ++i) all[i] = static_cast<std::int64_t>(i * 7 % 1000);
  expect_images(dataset, all);
  for (std::size_t i = 0; i < all.size(); ++i) all[i] = static_cast<std::int64_t>(i);
  expect_images(dataset, all);
  EXPECT_TRUE(says(data_error_of([&] { expect_images(dataset, {1000}); }), "image 1000"));
  EXPECT_TRUE(says(data_error_of([&] { expect_images(dataset, {-1}); }), "image -1"));
}

TEST_F(ShardTest, FindsASplitBelowTheFolderOfItsDataset) {
  EXPECT_EQ(Dataset::open({small_}, "train").images(), 1000);
  const std::string said = data_error_of([&] { Dataset::open({small_}, "test"); });
  EXPECT_TRUE(says(said, small_.string()));
  EXPECT_TRUE(says(said, "test/manifest.json"));
}

TEST_F(ShardTest, JoinsSeveralSplitsOfOneKind) {
  write_small_split(folder_ / "more", 50, 1);
  Dataset both = Dataset::open({small_, folder_ / "more"}, "train");
  EXPECT_EQ(both.images(), 1050);
  EXPECT_EQ(both.name(), "small/train + small/train");
  expect_images(both, {999, 1000, 1049});
  write_file_atomically(
      folder_ / "more/manifest.json",
      replaced(read_file(folder_ / "more/manifest.json", ExitCode::data), "\"classes\": 5", "\"classes\": 6"),
      ExitCode::data);
  EXPECT_TRUE(says(data_error_of([&] { Dataset::open({small_, folder_ / "more"}, "train"); }), "number of classes"));
}

std::vector<std::int32_t> labels_of(Dataset& dataset, const std::vector<std::int64_t>& numbers) {
  std::vector<std::uint8_t> images(numbers.size() * static_cast<std::size_t>(kSmallImage.bytes()));
  std::vector<std::int32_t> labels(numbers.size() * static_cast<std::size_t>(dataset.labels_per_image()), -7);
  dataset.read(numbers, images.data(), labels.data());
  return labels;
}

TEST_F(ShardTest, AnImageHasSeveralLabelsOrNone) {
  const Manifest manifest = write_multi_label_split(folder_ / "multi", 100, 3, 2);
  EXPECT_EQ(manifest.labels_per_image, 2);
  EXPECT_EQ(Manifest::read(folder_ / "multi").labels_per_image, 2);
  Dataset dataset = Dataset::open({folder_ / "multi"}, "train");
  EXPECT_EQ(dataset.labels_per_image(), 2);
  // Out of order, over the border of two shards (33, 34), and a run.
  EXPECT_EQ(labels_of(dataset, {34, 33, 2, 0, 97, 98}),
            (std::vector<std::int32_t>{4, -1, -1, -1, 2, 3, -1, -1, 2, -1, 3, 4}));
  dataset.verify();
}

TEST_F(ShardTest, OneLabelPerImageIsWrittenAsEver) {
  EXPECT_EQ(read_file(train_ / "manifest.json", ExitCode::data).find("labels_per_image"), std::string::npos);
  EXPECT_EQ(h5::File::open(train_ / "shard-00000.h5", ExitCode::data).info("labels").shape, h5::Shape{333});
  EXPECT_EQ(Dataset::open({train_}, "train").labels_per_image(), 1);
}

TEST_F(ShardTest, SplitsWithFewerLabelsAreFilledUp) {
  write_multi_label_split(folder_ / "two", 10, 1, 2);
  write_multi_label_split(folder_ / "three", 10, 1, 3);
  Dataset all = Dataset::open({train_, folder_ / "two", folder_ / "three"}, "train");
  EXPECT_EQ(all.labels_per_image(), 3);
  EXPECT_EQ(labels_of(all, {1013, 1005, 4}), (std::vector<std::int32_t>{3, 4, 0, 0, 1, -1, 4, -1, -1}));
}

TEST_F(ShardTest, ReadsMoreShardsThanItKeepsOpen) {
  write_small_split(folder_ / "many", 1000, 300);
  Dataset dataset = Dataset::open({folder_ / "many"}, "train");
  std::vector<std::int64_t> numbers;
  for (std::int64_t i = 0; i < 1000; ++i) numbers.push_back(i * 333 % 1000);
  expect_images(dataset, numbers);
  dataset.verify();
}

TEST_F(ShardTest, WritesTheSameBytesForTheSameImages) {
  const Manifest again = write_small_split(folder_ / "again", 1000, 3);
  const Manifest first = Manifest::read(train_);
  ASSERT_EQ(first.shards.size(), 3U);
  EXPECT_EQ(first.shards[0].images, 333);
  EXPECT_EQ(first.shards[2].images, 334);
  for (std::size_t i = 0; i < 3; ++i) EXPECT_EQ(first.shards[i].sha256, again.shards[i].sha256);
}

TEST_F(ShardTest, RefusesToPackWhatDoesNotFitTogether) {
  const std::vector<std::uint8_t> images(static_cast<std::size_t>(3 * kSmallImage.bytes()));
  const std::vector<std::int32_t> labels{0, 1, 5};
  const auto packing = [&](std::span<const std::int32_t> some_labels, std::int64_t classes) {
    return data_error_of([&] { write_split(folder_, "x", {kSmallImage, images, some_labels}, classes, {}, 1); });
  };
  EXPECT_TRUE(says(packing(labels, 5), "label 5"));
  EXPECT_TRUE(says(packing(std::span(labels).first(2), 6), "labels of 2 images, but 3 images"));
  EXPECT_THROW(write_split(folder_, "x", {kSmallImage, images, labels}, 6, {}, 4), Error);
  const auto packing_rows = [&](const std::vector<std::int32_t>& rows) {
    return data_error_of([&] { write_split(folder_, "x", {kSmallImage, images, rows, 2}, 6, {}, 1); });
  };
  EXPECT_TRUE(says(packing_rows({0, 1, 2, 3, 4, 4}), "image 2 has the label 4 twice"));
  EXPECT_TRUE(says(packing_rows({0, 1, 2, 6, 4, 5}), "image 1 has the label 6"));
  EXPECT_TRUE(says(packing_rows({0, 1, 2, -2, 4, 5}), "image 1 has the label -2"));
  write_split(folder_, "x", {kSmallImage, images, std::vector<std::int32_t>{0, 1, 1, 0, -1, -1}, 2}, 6, {}, 1);
}

TEST_F(ShardTest, NoticesAMissingShard) {
  std::filesystem::remove(train_ / "shard-00001.h5");
  const std::string said = data_error_of([&] { Dataset::open({train_}, "train"); });
  EXPECT_TRUE(says(said, "shard-00001.h5"));
  EXPECT_TRUE(says(said, "missing"));
}

TEST_F(ShardTest, NoticesATruncatedShard) {
  std::filesystem::resize_file(train_ / "shard-00002.h5", 5000);
  const std::string said = data_error_of([&] { Dataset::open({train_}, "train"); });
  EXPECT_TRUE(says(said, "shard-00002.h5' has 5000 bytes"));
}

TEST_F(ShardTest, NoticesAFlippedBitWhenReadingAndWhenVerifying) {
  const std::filesystem::path shard = train_ / "shard-00000.h5";
  std::string bytes = read_file(shard, ExitCode::data);
  const std::size_t pixels = bytes.find(std::string(static_cast<std::size_t>(kSmallImage.bytes()), '\x07'));
  ASSERT_NE(pixels, std::string::npos);
  bytes[pixels] ^= 0x20;
  write_file_atomically(shard, bytes, ExitCode::data);
  Dataset dataset = Dataset::open({train_}, "train");
  EXPECT_TRUE(says(data_error_of([&] { dataset.verify(); }), "SHA-256"));
  const std::string said = data_error_of([&] { expect_images(dataset, {7}); });
  EXPECT_TRUE(says(said, "hecksum"));
  EXPECT_TRUE(says(said, "shard-00000.h5"));
}

TEST_F(ShardTest, NoticesAManifestThatDisagreesWithItselfOrItsShards) {
  const std::string good = read_file(train_ / "manifest.json", ExitCode::data);
  const auto opening = [&](const std::string& from, const std::string& to) {
    write_file_atomically(train_ / "manifest.json", replaced(good, from, to), ExitCode::data);
    return data_error_of([&] { Dataset::open({train_}, "train"); });
  };
  EXPECT_TRUE(says(opening("vitrail-dataset-1", "vitrail-dataset-2"), "vitrail-dataset-2"));
  EXPECT_TRUE(says(opening("\"images\": 1000", "\"images\": 1001"), "1001 images"));
  EXPECT_TRUE(says(opening("\"classes\": 5", "\"classes\": 4"), "the label 4"));
  EXPECT_TRUE(says(opening("\"classes\": 5", "\"classes\": \"5\""), "/classes"));
  const auto labels = [](const char* number) { return std::string("\"classes\": 5, \"labels_per_image\": ") + number; };
  EXPECT_TRUE(says(opening("\"classes\": 5", labels("0")), "0 labels per image"));
  EXPECT_TRUE(says(opening("\"classes\": 5", labels("6")), "6 labels per image"));
  EXPECT_TRUE(says(opening("\"classes\": 5", labels("2")), "labels"));  // its shards have one
  EXPECT_TRUE(says(opening("shard-00001.h5", "shard-00000.h5"), "twice"));
  EXPECT_TRUE(says(opening("shard-00001.h5", "../shard-00001.h5"), "beside their manifest"));
  EXPECT_TRUE(says(opening("[", "[\n    0,"), "image shape"));
  EXPECT_TRUE(says(opening("{", "["), "not valid JSON"));
  // Fewer images in a shard than stated, with the right total.
  write_file_atomically(
      train_ / "manifest.json",
      replaced(replaced(good, "\"images\": 333", "\"images\": 332"), "\"images\": 334", "\"images\": 335"),
      ExitCode::data);
  EXPECT_TRUE(says(data_error_of([&] { Dataset::open({train_}, "train"); }), "other images than its manifest"));
}

}  // namespace
}  // namespace vitrail
