#include <csignal>
#include <span>
#include <string>

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/file.hpp"

namespace vitrail {
namespace {

class Files : public ::testing::Test {
 protected:
  void SetUp() override { std::filesystem::create_directories(folder_); }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  std::filesystem::path folder_ = std::filesystem::temp_directory_path() / ("vitrail-file-" + std::to_string(getpid()));
};

TEST_F(Files, ReadsBackWhatItWroteAndLeavesNothingBeside) {
  std::string content = "first\nsecond";
  content += '\0';
  write_file_atomically(folder_ / "a", "old", ExitCode::data);
  write_file_atomically(folder_ / "a", content, ExitCode::data);
  EXPECT_EQ(read_file(folder_ / "a", ExitCode::data), content);
  EXPECT_FALSE(std::filesystem::exists(folder_ / "a.tmp"));
}

TEST_F(Files, KeepsTheOldFileWhenTheDiskIsFull) {
  write_file_atomically(folder_ / "a", "good", ExitCode::checkpoint);
  // A limit on the size of files stands in for the full disk: write() fails in the same way.
  std::signal(SIGXFSZ, SIG_IGN);
  rlimit old{};
  getrlimit(RLIMIT_FSIZE, &old);
  const rlimit tight{1000, old.rlim_max};
  setrlimit(RLIMIT_FSIZE, &tight);
  std::string said;
  try {
    write_file_atomically(folder_ / "a", std::string(5000, 'x'), ExitCode::checkpoint);
  } catch (const Error& error) {
    said = error.what();
    EXPECT_EQ(error.code(), ExitCode::checkpoint);
  }
  setrlimit(RLIMIT_FSIZE, &old);
  EXPECT_NE(said.find("File too large"), std::string::npos) << said;
  EXPECT_EQ(read_file(folder_ / "a", ExitCode::checkpoint), "good");
  EXPECT_FALSE(std::filesystem::exists(folder_ / "a.tmp"));
}

TEST_F(Files, NamesTheFileThatItCannotRead) {
  try {
    static_cast<void>(read_file(folder_ / "missing", ExitCode::data));
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::data);
    EXPECT_EQ(std::string(error.what()),
              "cannot read '" + (folder_ / "missing").string() + "' (No such file or directory)");
  }
  EXPECT_THROW(static_cast<void>(read_file(folder_, ExitCode::data)), Error);
}

TEST_F(Files, ReadsStretchesAtAnyPlace) {
  write_file_atomically(folder_ / "a", "0123456789", ExitCode::data);
  const FileBytes file(folder_ / "a", ExitCode::data);
  EXPECT_EQ(file.size(), 10);
  std::string read(4, ' ');
  const auto bytes = std::as_writable_bytes(std::span(read));
  file.read(3, bytes);
  EXPECT_EQ(read, "3456");
  file.read(6, bytes);
  EXPECT_EQ(read, "6789");
  try {
    file.read(7, bytes);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::data);
    EXPECT_NE(std::string(error.what()).find("the file ends before"), std::string::npos) << error.what();
  }
  EXPECT_THROW(FileBytes(folder_ / "missing", ExitCode::data), Error);
}

TEST_F(Files, RenamesFolders) {
  std::filesystem::create_directory(folder_ / "step-1.tmp");
  write_file_atomically(folder_ / "step-1.tmp" / "x", "x", ExitCode::checkpoint);
  rename_durably(folder_ / "step-1.tmp", folder_ / "step-1", ExitCode::checkpoint);
  EXPECT_EQ(read_file(folder_ / "step-1" / "x", ExitCode::checkpoint), "x");
  std::filesystem::create_directory(folder_ / "other");
  EXPECT_THROW(rename_durably(folder_ / "other", folder_ / "step-1", ExitCode::checkpoint), Error);  // not empty
}

}  // namespace
}  // namespace vitrail
