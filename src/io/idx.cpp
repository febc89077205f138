#include "io/idx.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <string>

#include <zlib.h>

#include "base/unique_handle.hpp"

namespace vitrail {

namespace {

constexpr std::uint8_t kUnsignedByte = 0x08;
constexpr std::int64_t kPieceBytes = std::int64_t{1} << 24;

struct GzipTraits {
  using Handle = gzFile;
  static constexpr Handle null = nullptr;
  static void close(Handle handle) noexcept { gzclose_r(handle); }
};

class Reader {
 public:
  Reader(const std::filesystem::path& path, ExitCode code) : path_(path), code_(code) {
    errno = 0;
    file_ = UniqueHandle<GzipTraits>(gzopen(path.c_str(), "rb"));
    VITRAIL_EXPECT(static_cast<bool>(file_), code, text("cannot read '", path.string(), "'"), std::strerror(errno),
                   "Is the path right?");
    gzbuffer(file_.get(), 1 << 17);
  }

  /// The number of bytes read: less than `size` only at the end.
  std::int64_t read(std::uint8_t* to, std::int64_t size) {
    const int got = gzread(file_.get(), to, static_cast<unsigned>(size));
    int number = Z_OK;
    const char* said = gzerror(file_.get(), &number);
    if (number == Z_ERRNO) said = std::strerror(errno);
    VITRAIL_EXPECT(got >= 0 && number == Z_OK, code_, text("cannot read '", path_.string(), "'"), said,
                   "The file is damaged or cut short; fetch it again");
    return got;
  }

 private:
  std::filesystem::path path_;
  ExitCode code_;
  UniqueHandle<GzipTraits> file_;
};

std::string not_idx(const std::filesystem::path& path) {
  return text("'", path.string(), "' is not the IDX file asked for");
}

std::vector<std::int64_t> read_shape(Reader& reader, std::initializer_list<int> dimensions,
                                     const std::filesystem::path& path, ExitCode code) {
  std::array<std::uint8_t, 4> word{};
  VITRAIL_EXPECT(reader.read(word.data(), 4) == 4, code, not_idx(path), "it is too short for a header", "");
  VITRAIL_EXPECT(word[0] == 0 && word[1] == 0, code, not_idx(path), "it does not start with two zero bytes",
                 "Is this an IDX file?");
  VITRAIL_EXPECT(word[2] == kUnsignedByte, code, not_idx(path), text("its values have type ", int{word[2]}),
                 "Only unsigned bytes (type 8) are read");
  std::string wanted;
  for (const int one : dimensions) wanted += text(wanted.empty() ? "" : " or ", one);
  VITRAIL_EXPECT(std::find(dimensions.begin(), dimensions.end(), word[3]) != dimensions.end(), code, not_idx(path),
                 text("it has ", int{word[3]}, " dimensions instead of ", wanted),
                 "Images have 3, labels have 1 or 2: are the two files swapped?");
  std::vector<std::int64_t> shape;
  for (int left = word[3]; left > 0; --left) {
    VITRAIL_EXPECT(reader.read(word.data(), 4) == 4, code, not_idx(path), "its header is cut short", "");
    shape.push_back(std::int64_t{word[0]} << 24 | std::int64_t{word[1]} << 16 | std::int64_t{word[2]} << 8 | word[3]);
  }
  return shape;
}

}  // namespace

IdxArray read_idx(const std::filesystem::path& path, std::initializer_list<int> dimensions, ExitCode code) {
  Reader reader(path, code);
  IdxArray array{read_shape(reader, dimensions, path, code), {}};
  std::int64_t expected = 1;
  for (const std::int64_t extent : array.shape) {
    VITRAIL_EXPECT(extent == 0 || expected <= (std::int64_t{1} << 48) / extent, code, not_idx(path),
                   "its header promises more than 2^48 bytes", "The file is damaged; fetch it again");
    expected *= extent;
  }
  // Piece by piece: a damaged header must not ask for all memory before the file turns out to be short.
  std::int64_t done = 0;
  while (done < expected) {
    const std::int64_t size = std::min(kPieceBytes, expected - done);
    array.values.resize(static_cast<std::size_t>(done + size));
    const std::int64_t got = reader.read(array.values.data() + done, size);
    VITRAIL_EXPECT(got > 0, code, text("'", path.string(), "' is cut short"),
                   text("its header promises ", expected, " bytes, it holds ", done), "Fetch it again");
    done += got;
  }
  array.values.resize(static_cast<std::size_t>(expected));
  // Reading past the end also makes zlib compare gzip's checksum.
  std::uint8_t extra = 0;
  VITRAIL_EXPECT(reader.read(&extra, 1) == 0, code, text("'", path.string(), "' is too long"),
                 text("its header promises ", expected, " bytes"), "Fetch it again");
  return array;
}

}  // namespace vitrail
