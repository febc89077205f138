#pragma once
// A small dataset on disk, whose images can be recognised: every pixel of image i is i mod 251, its label i mod 5.

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <unistd.h>

#include "data/shard.hpp"

namespace vitrail {

constexpr ImageShape kSmallImage{4, 3, 2};
constexpr std::int64_t kSmallClasses = 5;

inline Manifest write_small_split(const std::filesystem::path& folder, std::int64_t count, std::int64_t shards) {
  std::vector<std::uint8_t> images;
  std::vector<std::int32_t> labels;
  for (std::int64_t i = 0; i < count; ++i) {
    images.insert(images.end(), static_cast<std::size_t>(kSmallImage.bytes()), static_cast<std::uint8_t>(i % 251));
    labels.push_back(static_cast<std::int32_t>(i % kSmallClasses));
  }
  std::filesystem::create_directories(folder);
  return write_split(folder, "small/train", {kSmallImage, images, labels}, kSmallClasses, {}, shards);
}

/// The same images with up to `each` labels: image i has (i mod (each + 1)) of them, the classes from i mod 5 on.
inline std::vector<std::int32_t> small_labels(std::int64_t i, std::int64_t each) {
  std::vector<std::int32_t> labels(static_cast<std::size_t>(each), -1);
  for (std::int64_t l = 0; l < i % (each + 1); ++l) {
    labels[static_cast<std::size_t>(l)] = static_cast<std::int32_t>((i + l) % kSmallClasses);
  }
  return labels;
}

inline Manifest write_multi_label_split(const std::filesystem::path& folder, std::int64_t count, std::int64_t shards,
                                        std::int64_t each) {
  std::vector<std::uint8_t> images;
  std::vector<std::int32_t> labels;
  for (std::int64_t i = 0; i < count; ++i) {
    images.insert(images.end(), static_cast<std::size_t>(kSmallImage.bytes()), static_cast<std::uint8_t>(i % 251));
    const std::vector<std::int32_t> row = small_labels(i, each);
    labels.insert(labels.end(), row.begin(), row.end());
  }
  std::filesystem::create_directories(folder);
  return write_split(folder, "small/multi", {kSmallImage, images, labels, each}, kSmallClasses, {}, shards);
}

/// A test with a folder of its own, in which `small/train` holds 1000 images in 3 shards.
class SmallSplit : public ::testing::Test {
 protected:
  void SetUp() override { write_small_split(train_, 1000, 3); }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::filesystem::path folder_ = std::filesystem::temp_directory_path() / ("vitrail-data-" + std::to_string(getpid()));
  std::filesystem::path small_ = folder_ / "small";
  std::filesystem::path train_ = small_ / "train";
};

/// The text of the Error(data) that `action` throws.
template <class Action>
std::string data_error_of(Action action) {
  try {
    action();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::data) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "no Error was thrown";
  return "";
}

inline bool says(const std::string& message, const std::string& part) {
  if (message.find(part) != std::string::npos) return true;
  ADD_FAILURE() << "'" << part << "' is not in: " << message;
  return false;
}

}  // namespace vitrail
