#include <fstream>
#include <string>

#include <gtest/gtest.h>
#include <unistd.h>
#include <zlib.h>

#include "io/idx.hpp"

namespace vitrail {
namespace {

class Idx : public ::testing::Test {
 protected:
  void TearDown() override { std::filesystem::remove(path_); }

  // 2 images of 2 x 3 pixels, values 0 .. 11.
  static std::string images() {
    std::string bytes{0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0, 3};
    for (char value = 0; value < 12; ++value) bytes += value;
    return bytes;
  }
  void write_plain(const std::string& bytes) { std::ofstream(path_, std::ios::binary) << bytes; }
  void write_gzip(const std::string& bytes) {
    const gzFile file = gzopen(path_.c_str(), "wb");
    gzwrite(file, bytes.data(), static_cast<unsigned>(bytes.size()));
    gzclose(file);
  }
  [[nodiscard]] std::string error_of(int dimensions) const {
    try {
      read_idx(path_, {dimensions}, ExitCode::data);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::data);
      EXPECT_NE(std::string(error.what()).find(path_.string()), std::string::npos) << error.what();
      return error.what();
    }
    ADD_FAILURE() << "no Error was thrown";
    return "";
  }
  void expect_images() const {
    const IdxArray array = read_idx(path_, {3}, ExitCode::data);
    EXPECT_EQ(array.shape, (std::vector<std::int64_t>{2, 2, 3}));
    ASSERT_EQ(array.values.size(), 12U);
    EXPECT_EQ(array.values[7], 7);
  }

  std::filesystem::path path_ = std::filesystem::temp_directory_path() / ("vitrail-idx-" + std::to_string(getpid()));
};

TEST_F(Idx, ReadsPlainAndGzipFiles) {
  write_plain(images());
  expect_images();
  write_gzip(images());
  expect_images();
}

TEST_F(Idx, ReadsAnEmptyArray) {
  write_plain(std::string{0, 0, 8, 1, 0, 0, 0, 0});
  EXPECT_TRUE(read_idx(path_, {1}, ExitCode::data).values.empty());
}

TEST_F(Idx, ReadsAnyOfTheNumbersOfDimensionsAskedFor) {
  write_plain(std::string{0, 0, 8, 1, 0, 0, 0, 1, 7});
  EXPECT_EQ(read_idx(path_, {1, 2}, ExitCode::data).shape, std::vector<std::int64_t>{1});
  write_plain(std::string{0, 0, 8, 2, 0, 0, 0, 1, 0, 0, 0, 2, 7, 8});
  EXPECT_EQ(read_idx(path_, {1, 2}, ExitCode::data).shape, (std::vector<std::int64_t>{1, 2}));
  write_plain(images());
  try {
    read_idx(path_, {1, 2}, ExitCode::data);
    FAIL() << "three dimensions were read";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("3 dimensions instead of 1 or 2"), std::string::npos) << error.what();
  }
}

TEST_F(Idx, RefusesFilesOfAnotherKind) {
  EXPECT_NE(error_of(3).find("No such file"), std::string::npos);
  write_plain("");
  EXPECT_NE(error_of(3).find("too short"), std::string::npos);
  write_plain("\x89PNG....");
  EXPECT_NE(error_of(3).find("zero bytes"), std::string::npos);
  write_plain(std::string{0, 0, 13, 3, 0, 0, 0, 2});
  EXPECT_NE(error_of(3).find("type 13"), std::string::npos);
  write_plain(images());
  EXPECT_NE(error_of(1).find("swapped"), std::string::npos);
}

TEST_F(Idx, RefusesFilesThatAreTooShortOrTooLong) {
  write_plain(images().substr(0, 10));
  EXPECT_NE(error_of(3).find("cut short"), std::string::npos);
  write_plain(images().substr(0, 20));
  EXPECT_NE(error_of(3).find("cut short"), std::string::npos);
  write_plain(images() + "x");
  EXPECT_NE(error_of(3).find("too long"), std::string::npos);
  write_plain(std::string{0, 0, 8, 3, 127, 0, 0, 0, 0, 0, 127, 0, 0, 0, 0, 1, 1});  // 2^46 bytes promised
  EXPECT_NE(error_of(3).find("cut short"), std::string::npos);
  write_plain(std::string{0, 0, 8, 3, 127, 0, 0, 0, 127, 0, 0, 0, 127, 0, 0, 0, 1});  // more than 2^63
  EXPECT_NE(error_of(3).find("2^48"), std::string::npos);
}

TEST_F(Idx, RefusesDamagedGzipFiles) {
  write_gzip(images());
  const auto size = std::filesystem::file_size(path_);
  std::filesystem::resize_file(path_, size - 6);  // inside the trailer with the checksum
  EXPECT_FALSE(error_of(3).empty());
  write_gzip(images());
  {
    std::fstream bytes(path_, std::ios::in | std::ios::out | std::ios::binary);
    bytes.seekp(static_cast<std::streamoff>(size) - 8);  // the checksum itself
    bytes.write("\x01\x02\x03\x04", 4);
  }
  EXPECT_NE(error_of(3).find("damaged"), std::string::npos);
}

}  // namespace
}  // namespace vitrail
