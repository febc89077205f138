#include <csignal>
#include <random>
#include <string>

#include <gtest/gtest.h>
#include <sys/resource.h>

#include "io/zip.hpp"
#include "tests/errors.hpp"
#include "tests/io/zip_bytes.hpp"
#include "tests/scratch_folder.hpp"

namespace vitrail {
namespace {

using testing::bytes_of;
using testing::error_of;
using testing::write_bytes;
using testing::zip_bytes;

std::string pattern(std::size_t bytes) {
  std::string made(bytes, '\0');
  for (std::size_t i = 0; i < bytes; ++i) made[i] = static_cast<char>(i * 7 + i / 251 + i / 65521);
  return made;
}

std::string read_part(ZipReader& zip, std::size_t entry, std::size_t first, std::size_t count) {
  std::string bytes(count, '\0');
  zip.read(entry, static_cast<std::int64_t>(first), bytes.data(), static_cast<std::int64_t>(count));
  return bytes;
}

std::string read_whole(ZipReader& zip, std::size_t entry) {
  return read_part(zip, entry, 0, static_cast<std::size_t>(zip.entries()[entry].bytes));
}

/// Opens and reads everything; what was damaged must end as an Error.
void read_all(const std::filesystem::path& path) {
  ZipReader zip(path);
  for (std::size_t i = 0; i < zip.entries().size(); ++i) {
    // A size that is claimed is not believed: at most a little more than all test archives have is asked for.
    if (zip.entries()[i].bytes < 100000) read_whole(zip, i);
  }
}

void expect_says(const Error& error, const std::string& part) {
  EXPECT_EQ(error.code(), ExitCode::checkpoint);
  EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << "'" << part << "' is not in: " << error.what();
}

class Zip : public ::testing::Test {
 protected:
  testing::ScratchFolder folder_;
  std::filesystem::path path_ = folder_ / "a.zip";
};

TEST_F(Zip, ReadsBackWhatItWroteInStretchesOfAnySize) {
  const std::vector<std::string> contents{pattern(1), "", pattern(300000), pattern(77), ""};
  std::vector<ZipWriter::Entry> entries;
  std::string all;
  for (const std::string& content : contents) {
    entries.push_back({"folder/entry " + std::to_string(entries.size()), static_cast<std::int64_t>(content.size())});
    all += content;
  }
  for (const std::size_t stretch : {std::size_t{1000}, std::size_t{65537}, all.size()}) {
    ZipWriter out(path_, entries);
    for (std::size_t at = 0; at < all.size(); at += stretch) {
      const std::size_t count = std::min(stretch, all.size() - at);
      out.write(all.data() + at, static_cast<std::int64_t>(count));
    }
    out.finish();
    ZipReader zip(path_);
    ASSERT_EQ(zip.entries().size(), contents.size());
    for (std::size_t i = 0; i < contents.size(); ++i) {
      EXPECT_EQ(zip.entries()[i].name, entries[i].name);
      EXPECT_FALSE(zip.entries()[i].deflated);
      EXPECT_EQ(read_whole(zip, i), contents[i]);
    }
  }
}

TEST_F(Zip, ReadsAnyPartOfStoredAndDeflatedEntriesInAnyOrder) {
  const std::string content = pattern(500000);
  write_bytes(path_, zip_bytes({{"stored", content}, {"deflated", content, true}}));
  ZipReader zip(path_);
  EXPECT_FALSE(zip.entries()[0].deflated);
  EXPECT_TRUE(zip.entries()[1].deflated);
  EXPECT_LT(std::filesystem::file_size(path_), 900000U);
  std::mt19937 random(1);
  for (int i = 0; i < 60; ++i) {
    const std::size_t entry = random() % 2;
    const std::size_t first = random() % content.size();
    const std::size_t count = random() % (content.size() - first) + (i % 7 == 0 ? 0 : 1);
    EXPECT_EQ(read_part(zip, entry, first, count), content.substr(first, count));
  }
  EXPECT_EQ(read_part(zip, 1, content.size(), 0), "");
}

TEST_F(Zip, KeepsMoreThan65535Entries) {
  constexpr std::size_t count = 66000;
  const std::string content = pattern(count);
  std::vector<ZipWriter::Entry> entries;
  for (std::size_t i = 0; i < count; ++i) entries.push_back({std::to_string(i), 1});
  ZipWriter out(path_, entries);
  out.write(content.data(), count);
  out.finish();
  ZipReader zip(path_);
  ASSERT_EQ(zip.entries().size(), count);
  EXPECT_EQ(read_whole(zip, count - 1), content.substr(count - 1));
}

TEST_F(Zip, EqualContentsGiveEqualFiles) {
  const std::string content = pattern(5000);
  const auto write = [&](const std::string& name, std::int64_t stretch) {
    ZipWriter out(folder_ / name, {{"one", 5000}});
    for (std::int64_t at = 0; at < 5000; at += stretch) out.write(content.data() + at, stretch);
    out.finish();
  };
  write("a", 5000);
  write("b", 50);
  EXPECT_EQ(bytes_of(folder_ / "a"), bytes_of(folder_ / "b"));
  EXPECT_NE(bytes_of(folder_ / "a").find(std::string("\x00\x00\x21\x00", 4)), std::string::npos);  // 1980-01-01
}

TEST_F(Zip, LeavesNothingBehindAndTheOldFileUntouchedUntilItIsFinished) {
  write_bytes(path_, "old");
  const std::string content = pattern(100);
  { const ZipWriter never_written(path_, {{"one", 100}}); }
  {
    ZipWriter half_written(path_, {{"one", 100}});
    half_written.write(content.data(), 50);
    expect_says(error_of([&] { half_written.finish(); }), "50 bytes of its entries are missing");
    EXPECT_EQ(bytes_of(path_), "old");
  }
  EXPECT_EQ(bytes_of(path_), "old");
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder_.path()), {}), 1);
  ZipWriter whole(path_, {{"one", 100}});
  whole.write(content.data(), 100);
  expect_says(error_of([&] { whole.write(content.data(), 1); }), "1 bytes more");
  whole.finish();
  EXPECT_EQ(bytes_of(path_).substr(0, 2), "PK");
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder_.path()), {}), 1);
}

TEST_F(Zip, SaysWhatCannotBeWritten) {
  expect_says(error_of([&] { ZipWriter(folder_ / "no/such/folder", {{"one", 1}}); }), "No such file or directory");
  expect_says(error_of([&] { ZipWriter(path_, {}); }), "without entries");
  expect_says(error_of([&] { ZipWriter(path_, {{"one", 1}, {"one", 1}}); }), "entry 'one'");
  expect_says(error_of([&] { ZipWriter(path_, {{std::string("a\0b", 3), 1}}); }), "name or size");
  expect_says(error_of([&] { ZipWriter(path_, {{std::string(70000, 'a'), 1}}); }), "name or size");
  EXPECT_TRUE(std::filesystem::is_empty(folder_.path()));
}

TEST_F(Zip, SaysThatTheDiskIsFull) {
  // A limit on the size of files stands in for a full disk.
  rlimit old{};
  getrlimit(RLIMIT_FSIZE, &old);
  const auto old_action = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit small{100000, old.rlim_max};
  const std::string content = pattern(300000);
  ZipWriter out(path_, {{"one", 300000}});
  setrlimit(RLIMIT_FSIZE, &small);
  const Error while_writing = error_of([&] {
    out.write(content.data(), 300000);
    out.finish();
  });
  const Error afterwards = error_of([&] { out.finish(); });
  setrlimit(RLIMIT_FSIZE, &old);
  std::signal(SIGXFSZ, old_action);
  expect_says(while_writing, "cannot write '" + path_.string());
  expect_says(while_writing, "File too large");
  expect_says(afterwards, "cannot write '" + path_.string());
  EXPECT_FALSE(std::filesystem::exists(path_));
}

TEST_F(Zip, FindsEveryFlippedBitOfTheData) {
  const std::string content = pattern(3000);
  for (const bool deflated : {false, true}) {
    const std::string intact = zip_bytes({{"first", content, deflated}, {"second", content}});
    const std::size_t data = 30 + 5;
    const std::size_t stored = deflated ? testing::deflate_raw(content).size() : content.size();
    std::size_t without_effect = 0;
    for (std::size_t at = 0; at < stored; at += 13) {
      std::string damaged = intact;
      damaged[data + at] = static_cast<char>(damaged[data + at] ^ (1 << (at % 8)));
      write_bytes(path_, damaged);
      ZipReader zip(path_);
      EXPECT_EQ(read_whole(zip, 1), content);
      const Error error = error_of([&] { EXPECT_EQ(read_whole(zip, 0), content) << "byte " << at; });
      if (error.code() == ExitCode::done) {
        ++without_effect;  // behind the last byte that is made of it
        continue;
      }
      expect_says(error, "entry 'first' of '" + path_.string() + "' cannot be read");
      if (!deflated) expect_says(error, "CRC error");
      EXPECT_EQ(read_whole(zip, 1), content);  // and goes on with others
    }
    EXPECT_LE(without_effect, deflated ? 1U : 0U);
  }
}

TEST_F(Zip, ComparesTheChecksumWhenAnEntryIsReadInStretches) {
  std::string archive = zip_bytes({{"one", pattern(200000)}});
  archive[150000] ^= 1;
  write_bytes(path_, archive);
  ZipReader zip(path_);
  for (std::size_t at = 0; at < 180000; at += 20000) read_part(zip, 0, at, 20000);
  expect_says(error_of([&] { read_part(zip, 0, 180000, 20000); }), "CRC error");
  read_part(zip, 0, 70000, 1000);                     // a jump
  EXPECT_NO_THROW(read_part(zip, 0, 180000, 20000));  // what lies between was not read: no checksum
}

TEST_F(Zip, RefusesArchivesThatAreCutShort) {
  const std::string intact = zip_bytes({{"first", pattern(200)}, {"second", pattern(300), true}});
  write_bytes(path_, intact);
  EXPECT_NO_THROW(read_all(path_));
  for (std::size_t length = 0; length < intact.size(); ++length) {
    write_bytes(path_, intact.substr(0, length));
    const Error error = error_of([&] { read_all(path_); });
    expect_says(error, path_.string());
  }
}

TEST_F(Zip, RefusesWhatIsNoArchive) {
  expect_says(error_of([&] { ZipReader zip(path_); }), "No such file");
  expect_says(error_of([&] { ZipReader zip(folder_.path()); }), "it is not a file");
  write_bytes(path_, "");
  expect_says(error_of([&] { ZipReader zip(path_); }), "it is empty");
  write_bytes(path_, pattern(100000));
  expect_says(error_of([&] { ZipReader zip(path_); }), "Not a zip archive");
}

TEST_F(Zip, RefusesEntriesThatItCannotReadOrThatCannotBe) {
  const auto said = [&](const testing::HandMadeEntry& entry) {
    write_bytes(path_, zip_bytes({entry}));
    return error_of([&] { read_all(path_); });
  };
  expect_says(said({"one", "data", false, 12}), "compressed by method 12");
  expect_says(said({"one", "data", false, 0, 1}), "it is encrypted");
  expect_says(said({"one", "data", false, 0, 0, 5}), "claims 5 bytes");
  expect_says(said({"one", "data", true, 8, 0, 0x7FFFFFFF}), "cannot hold them");
  expect_says(said({"one", "some data", true, 8, 0, 8}), "entry 'one'");
  expect_says(said({"one", "some data", true, 8, 0, 10}), "entry 'one'");
}

TEST_F(Zip, HasOnlyTheBytesThatAnEntryHas) {
  write_bytes(path_, zip_bytes({{"one", "data"}}));
  ZipReader zip(path_);
  EXPECT_EQ(read_part(zip, 0, 4, 0), "");
  expect_says(error_of([&] { read_part(zip, 0, 2, 3); }), "has no bytes 2 .. 5");
  expect_says(error_of([&] { read_part(zip, 1, 0, 1); }), "has no entry 1");
  char byte = 0;
  expect_says(error_of([&] { zip.read(0, -1, &byte, 1); }), "has no bytes");
}

/// The number of entries is 8 bytes in a zip64 archive; libzip must not make room for what it says.
TEST_F(Zip, DoesNotBelieveANumberOfEntries) {
  const std::string intact = zip_bytes({{"one", "data"}});
  const std::size_t end = intact.size() - 22;
  const std::size_t directory = end - (46 + 3);
  for (const std::uint64_t claimed : {std::uint64_t{50'000'000}, std::uint64_t{1} << 40, std::uint64_t{1} << 62}) {
    using testing::little_endian;
    const std::string zip64 = "PK\x06\x06" + little_endian(44, 8) + little_endian(45, 2) + little_endian(45, 2) +
                              little_endian(0, 8) + little_endian(claimed, 8) + little_endian(claimed, 8) +
                              little_endian(end - directory, 8) + little_endian(directory, 8);
    const std::string locator = "PK\x06\x07" + little_endian(0, 4) + little_endian(end, 8) + little_endian(1, 4);
    const std::string closing =
        "PK\x05\x06" + little_endian(0, 4) + std::string(4 + 4 + 4, '\xFF') + little_endian(0, 2);
    write_bytes(path_, intact.substr(0, end).append(zip64).append(locator).append(closing));
    rusage before{};
    rusage after{};
    getrusage(RUSAGE_SELF, &before);
    expect_says(error_of([&] { read_all(path_); }), path_.string());
    getrusage(RUSAGE_SELF, &after);
    EXPECT_LT(after.ru_maxrss - before.ru_maxrss, 64 << 10) << claimed;
  }
}

TEST_F(Zip, AnswersDamageOfAnyKindWithAnError) {
  const std::string intact = zip_bytes({{"first", pattern(100)}, {"second", pattern(200), true}, {"", ""}});
  std::mt19937 random(7);
  for (int round = 0; round < 2000; ++round) {
    std::string damaged = intact;
    for (std::size_t changes = 1 + random() % 4; changes > 0; --changes) {
      damaged[random() % damaged.size()] = static_cast<char>(random() % 3 == 0 ? 0xFF : random());
    }
    if (random() % 4 == 0) damaged.resize(random() % damaged.size());
    write_bytes(path_, damaged);
    const Error error = error_of([&] { read_all(path_); });  // another exception, or a crash, fails the test
    if (error.code() != ExitCode::done) expect_says(error, path_.string());
  }
}

}  // namespace
}  // namespace vitrail
