#include <fstream>

#include <gtest/gtest.h>
#include <unistd.h>

#include "convert/positioned_file.hpp"
#include "tests/convert/flax_samples.hpp"
#include "tests/errors.hpp"

namespace vitrail {
namespace {

using testing::content_of;
using testing::error_of;
using testing::FlaxFolder;
using testing::put;

TEST(PositionedFile, WritesAndReadsAtAnyPlace) {
  const FlaxFolder folder;
  {
    PositionedFile file = PositionedFile::create(folder / "a");
    file.write(6, "world");
    file.write(0, "hello ");
    file.close();
  }
  EXPECT_EQ(content_of(folder / "a"), "hello world");
  const PositionedFile file = PositionedFile::open(folder / "a");
  EXPECT_EQ(file.size(), 11);
  std::string part(3, '?');
  file.read(4, 3, part.data());
  EXPECT_EQ(part, "o w");
}

TEST(PositionedFile, TellsWhereAFileEndsTooEarly) {
  const FlaxFolder folder;
  put(folder / "a", "hello");
  const PositionedFile file = PositionedFile::open(folder / "a");
  std::string part(6, '?');
  const Error error = error_of([&] { file.read(2, 6, part.data()); });
  EXPECT_EQ(error.code(), ExitCode::checkpoint);
  EXPECT_NE(std::string(error.what()).find("a' ends at byte 5"), std::string::npos) << error.what();
}

TEST(MappedFile, ShowsTheWholeFile) {
  const FlaxFolder folder;
  put(folder / "a", std::string(10000, 'x') + "end");
  put(folder / "empty", "");
  const MappedFile mapped(PositionedFile::open(folder / "a"));
  EXPECT_EQ(mapped.bytes(), content_of(folder / "a"));
  mapped.forget();
  EXPECT_EQ(mapped.bytes(), content_of(folder / "a"));
  EXPECT_TRUE(MappedFile(PositionedFile::open(folder / "empty")).bytes().empty());
  EXPECT_EQ(error_of([] { MappedFile(PositionedFile::open("/dev/null")); }).code(), ExitCode::checkpoint);
}

/// Memory that this process holds now.
std::int64_t resident_bytes() {
  std::ifstream statm("/proc/self/statm");
  std::int64_t total = 0;
  std::int64_t resident = 0;
  statm >> total >> resident;
  return resident * ::sysconf(_SC_PAGESIZE);
}

TEST(MappedFile, GivesMemoryBackWhenItForgets) {
  const FlaxFolder folder;
  constexpr std::int64_t kBytes = std::int64_t{32} << 20;
  put(folder / "big", std::string(kBytes, 'x'));
  const MappedFile mapped(PositionedFile::open(folder / "big"));
  const std::int64_t before = resident_bytes();
  EXPECT_EQ(std::count(mapped.bytes().begin(), mapped.bytes().end(), 'x'), kBytes);
  EXPECT_GT(resident_bytes(), before + kBytes / 2);
  mapped.forget();
  EXPECT_LT(resident_bytes(), before + kBytes / 4);
}

}  // namespace
}  // namespace vitrail
