#include <filesystem>
#include <fstream>
#include <string>

#include <gtest/gtest.h>
#include <unistd.h>

#include "base/sha256.hpp"

namespace vitrail {
namespace {

// FIPS 180-4 / NIST examples.
TEST(Sha256, GivesTheKnownDigests) {
  EXPECT_EQ(sha256_of(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(sha256_of("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(sha256_of(std::string(1'000'000, 'a')), "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST(Sha256, DoesNotDependOnThePieces) {
  Sha256 sum;
  sum.update("a");
  sum.update("");
  sum.update("bc");
  EXPECT_EQ(sum.hex(), sha256_of("abc"));
}

TEST(Sha256, ReadsFilesLargerThanItsBuffer) {
  const std::filesystem::path path =
      std::filesystem::temp_directory_path() / ("vitrail-sha-" + std::to_string(getpid()));
  const std::string content(3'000'001, 'x');
  std::ofstream(path, std::ios::binary) << content;
  EXPECT_EQ(sha256_of_file(path, ExitCode::data), sha256_of(content));
  std::filesystem::remove(path);
  try {
    static_cast<void>(sha256_of_file(path, ExitCode::data));
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::data);
    EXPECT_NE(std::string(error.what()).find("No such file"), std::string::npos);
  }
}

}  // namespace
}  // namespace vitrail
