#include <vector>

#include <gtest/gtest.h>
#include <sys/stat.h>

#include "io/raw_file.hpp"
#include "tests/errors.hpp"
#include "tests/scratch_folder.hpp"

namespace vitrail {
namespace {

using testing::bytes_of;
using testing::error_of;
using testing::write_bytes;

void expect_says(const Error& error, const std::string& part) {
  EXPECT_EQ(error.code(), ExitCode::data);
  EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << "'" << part << "' is not in: " << error.what();
}

TEST(RawFile, ReadsBytesAtOffsets) {
  const testing::ScratchFolder folder;
  write_bytes(folder / "a", "0123456789");
  const RawReader file(folder / "a", ExitCode::data);
  EXPECT_EQ(file.bytes(), 10);
  std::string three(3, ' ');
  file.read(7, three.data(), 3);
  EXPECT_EQ(three, "789");
  expect_says(error_of([&] { file.read(8, three.data(), 3); }), "cut short (1 bytes are missing at byte 10)");
}

TEST(RawFile, RefusesWhatIsNoFile) {
  const testing::ScratchFolder folder;
  expect_says(error_of([&] { RawReader(folder / "a", ExitCode::data); }), "No such file");
  expect_says(error_of([&] { RawReader(folder.path(), ExitCode::data); }), "it is not a file");
  ASSERT_EQ(mkfifo((folder / "pipe").c_str(), 0600), 0);
  expect_says(error_of([&] { RawReader(folder / "pipe", ExitCode::data); }), "it is not a file");
}

TEST(RawFile, ReplacesAFileOnlyWhenItIsPublished) {
  const testing::ScratchFolder folder;
  write_bytes(folder / "a", "old");
  {
    RawWriter abandoned(folder / "a", ExitCode::data);
    abandoned.write(0, "lost", 4);
    abandoned.seal();
  }
  EXPECT_EQ(bytes_of(folder / "a"), "old");
  EXPECT_FALSE(std::filesystem::exists(folder / "a.tmp"));
  std::vector<RawWriter> files;  // moved when the vector grows: nothing is removed then
  files.emplace_back(folder / "a", ExitCode::data);
  files.back().write(3, "def", 3);
  files.back().write(0, "abc", 3);
  files.back().seal();
  files.emplace_back(folder / "b", ExitCode::data);
  EXPECT_EQ(bytes_of(folder / "a"), "old");
  files.front().publish();
  EXPECT_EQ(bytes_of(folder / "a"), "abcdef");
  files.clear();
  EXPECT_EQ(bytes_of(folder / "a"), "abcdef");
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder.path()), {}), 1);
}

TEST(RawFile, SaysThatItCannotWrite) {
  const testing::ScratchFolder folder;
  expect_says(error_of([&] { RawWriter(folder / "no/folder", ExitCode::data); }), "No such file or directory");
  if (std::filesystem::exists("/dev/full")) {
    std::filesystem::create_symlink("/dev/full", folder / "full.tmp");
    RawWriter full(folder / "full", ExitCode::data);
    expect_says(error_of([&] { full.write(0, "x", 1); }), "No space left on device). Free some space");
  }
}

}  // namespace
}  // namespace vitrail
