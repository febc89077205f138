#include <cmath>
#include <fstream>
#include <set>
#include <utility>

#include <gtest/gtest.h>

#include "tests/train/checkpoint_samples.hpp"
#include "train/checkpoint_manifest.hpp"
#include "train/checkpoint_part.hpp"

namespace vitrail {
namespace {

using testing::content_of;
using testing::failure_of;
using testing::holds;
using testing::read_range;
using testing::replace_content;
using testing::Sample;
using testing::save;
using testing::TemporaryFolder;

bool says(const std::string& message, const std::string& words) { return message.find(words) != std::string::npos; }

class CheckpointReaderTest : public ::testing::Test {
 protected:
  CheckpointReaderTest() { save(run_dir(), 420, sample_, 0, 100); }
  [[nodiscard]] const std::filesystem::path& run_dir() const { return folder_.path(); }
  [[nodiscard]] std::filesystem::path step_dir() const { return run_dir() / "checkpoints" / "step-00000420"; }
  [[nodiscard]] std::filesystem::path part() const { return step_dir() / part_name(0, 1); }

  TemporaryFolder folder_;
  Sample sample_;
};

TEST_F(CheckpointReaderTest, ReturnsTheBitsThatWereSaved) {
  const CheckpointReader reader(run_dir());
  EXPECT_TRUE(holds(reader, sample_));
  EXPECT_EQ(reader.path(), step_dir());
  EXPECT_EQ(reader.info().step, 420);
  EXPECT_TRUE(reader.info().config == testing::sample_info(0).config);
  EXPECT_EQ(reader.info().layout.at("ranks").as_integer(), 1);
  Sample other;
  other.tensors()[3].bytes[999] ^= 1;
  EXPECT_FALSE(holds(reader, other));
}

TEST_F(CheckpointReaderTest, OpensARunFolderAndACheckpointFolderAlike) {
  EXPECT_EQ(CheckpointReader(run_dir()).digest(), CheckpointReader(step_dir()).digest());
}

TEST_F(CheckpointReaderTest, ReadsAnyRangeAcrossPieces) {
  const CheckpointReader reader(run_dir());
  const testing::SampleTensor& tensor = sample_.tensors()[0];  // [7, 33] in pieces of 100, 100 and 31
  for (const std::int64_t first : {0, 1, 99, 100, 101, 199, 200, 230, 231}) {
    for (std::int64_t count = 0; first + count <= 231; count += 7) {
      const std::vector<std::uint8_t> expected(tensor.bytes.begin() + first * 4,
                                               tensor.bytes.begin() + (first + count) * 4);
      ASSERT_EQ(read_range(reader, tensor.name, first, count), expected) << first << " " << count;
    }
  }
}

TEST_F(CheckpointReaderTest, TheDigestDoesNotDependOnTheCut) {
  const std::string digest = CheckpointReader(run_dir()).digest();
  EXPECT_EQ(digest.size(), 64U);
  for (const std::int64_t run : {1 << 20, 33, 7}) {
    const TemporaryFolder other;
    save(other.path(), 420, sample_, 0, run);
    EXPECT_EQ(CheckpointReader(other.path()).digest(), digest) << run;
  }
}

TEST_F(CheckpointReaderTest, TheDigestNoticesEveryDifference) {
  std::vector<std::string> digests = {CheckpointReader(run_dir()).digest()};
  const auto add = [&](const Sample& sample, std::int64_t step) {
    const TemporaryFolder other;
    save(other.path(), step, sample);
    digests.push_back(CheckpointReader(other.path()).digest());
  };
  add(sample_, 421);
  Sample bit;
  bit.tensors()[3].bytes[0] ^= 128;
  add(bit, 420);
  Sample shape;
  shape.tensors()[0].shape = {33, 7};
  add(shape, 420);
  Sample dtype;
  dtype.tensors()[0].dtype = Dtype::i32;
  add(dtype, 420);
  Sample name;
  name.tensors()[4].name = "moments/nothing";
  add(name, 420);
  std::sort(digests.begin(), digests.end());
  EXPECT_EQ(std::unique(digests.begin(), digests.end()), digests.end());
}

TEST_F(CheckpointReaderTest, StreamsTensorsLargerThanItsBuffer) {
  Sample large;
  testing::SampleTensor& tensor = large.tensors()[0];
  tensor.shape = {3, 2'000'001};  // 24 MB: more than one stretch of 16 MiB
  tensor.bytes.resize(24'000'012);
  for (std::size_t i = 0; i < tensor.bytes.size(); ++i) tensor.bytes[i] = static_cast<std::uint8_t>(i * i >> 7);
  const TemporaryFolder other;
  save(other.path(), 1, large, 0, 5'000'000);
  const CheckpointReader reader(other.path());
  EXPECT_TRUE(holds(reader, large));
  std::string digest = reader.digest();
  save(other.path(), 1, large, 0, 6'000'003);
  EXPECT_EQ(CheckpointReader(other.path()).digest(), digest);
}

TEST_F(CheckpointReaderTest, NamesTheNearestTensorForAnUnknownOne) {
  const CheckpointReader reader(run_dir());
  EXPECT_FALSE(reader.has("parameters/block/kernle"));
  const std::string said = failure_of([&] { return reader.shape("parameters/block/kernle"); });
  EXPECT_TRUE(says(said, "has no tensor 'parameters/block/kernle'")) << said;
  EXPECT_TRUE(says(said, "Did you mean 'parameters/block/kernel'?")) << said;
}

TEST_F(CheckpointReaderTest, RefusesAnotherDtypeAndRangesOutside) {
  const CheckpointReader reader(run_dir());
  std::vector<double> memory(300);
  const auto read = [&](std::int64_t first, std::int64_t count, Dtype dtype, DeviceKind device = DeviceKind::cpu) {
    return failure_of([&] { reader.read("parameters/block/kernel", first, {memory.data(), {count}, dtype, device}); });
  };
  EXPECT_TRUE(says(read(0, 231, Dtype::i32), "is f32 (it is needed as i32)"));
  EXPECT_TRUE(says(read(0, 231, Dtype::bf16), "is f32 (it is needed as bf16)"));
  EXPECT_TRUE(says(read(0, 232, Dtype::f32), "its shape is [7, 33]"));
  EXPECT_TRUE(says(read(231, 1, Dtype::f32), "its shape is [7, 33]"));
  EXPECT_TRUE(says(read(-1, 1, Dtype::f32), "its shape is [7, 33]"));
  EXPECT_TRUE(says(read(0, 1, Dtype::f32, DeviceKind::cuda), "device memory"));
}

TEST_F(CheckpointReaderTest, NamesAMissingFile) {
  std::filesystem::remove(part());
  const std::string said = failure_of([&] { CheckpointReader reader(run_dir()); });
  EXPECT_TRUE(says(said, part().string()) && says(said, "No such file")) << said;
}

TEST_F(CheckpointReaderTest, NamesATruncatedFile) {
  const std::string content = content_of(part());
  replace_content(part(), content.substr(0, content.size() - 1));
  const std::string said = failure_of([&] { CheckpointReader reader(run_dir()); });
  EXPECT_TRUE(says(said, part().string()) && says(said, text("has ", content.size() - 1, " bytes"))) << said;
}

TEST_F(CheckpointReaderTest, VerifyFindsOneFlippedBitAnywhere) {
  const std::string content = content_of(part());
  // Who owns a byte, by the places of the pieces.
  std::vector<std::string> owners(content.size());
  std::vector<std::int64_t> begins(content.size(), 0);
  const CheckpointReader reader(run_dir());
  for (const std::string& name : reader.tensors()) {
    for (const StoredPlace& place : reader.places(name)) {
      for (std::int64_t i = 0; i < place.count * size_of(reader.dtype(name)); ++i) {
        owners[static_cast<std::size_t>(place.offset + i)] = name;
        begins[static_cast<std::size_t>(place.offset + i)] = place.offset;  // pieces are smaller than a block
      }
    }
  }
  EXPECT_TRUE(reader.verify().empty());
  std::set<std::string> damaged;
  std::fstream file(part(), std::ios::in | std::ios::out | std::ios::binary);
  const auto put = [&](std::size_t at, int byte) {
    file.seekp(static_cast<std::streamoff>(at)).put(static_cast<char>(byte)).flush();
  };
  for (std::size_t at = 0; at < content.size(); at += 3) {
    put(at, content[at] ^ (1 << at % 8));
    const std::vector<Damage> damage = reader.verify();
    put(at, content[at]);
    ASSERT_EQ(damage.size(), 1U) << at;
    EXPECT_EQ(damage[0].tensor, owners[at]);
    EXPECT_EQ(damage[0].file, "part-00000-of-00001.h5");
    EXPECT_EQ(damage[0].offset, owners[at].empty() ? std::nullopt : std::optional(begins[at]));
    EXPECT_TRUE(says(damage[0].what, owners[at].empty() ? "HDF5's own" : text("bytes ", begins[at], " to ")));
    damaged.insert(damage[0].tensor);
  }
  EXPECT_EQ(damaged.size(), 9U);  // every tensor that is not empty, and what is between them
}

TEST_F(CheckpointReaderTest, VerifyTellsAFileThatCannotBeRead) {
  const CheckpointReader reader(run_dir());
  std::filesystem::remove(part());
  const std::vector<Damage> damage = reader.verify();
  ASSERT_EQ(damage.size(), 1U);
  EXPECT_EQ(damage[0].tensor, "");
  EXPECT_TRUE(says(damage[0].what, part().string()) && says(damage[0].what, "No such file")) << damage[0].what;
}

/// 2.5 blocks in one piece, and its checkpoint.
class LongTensor : public ::testing::Test {
 protected:
  LongTensor() {
    for (std::size_t i = 0; i < bytes_.size(); ++i) bytes_[i] = static_cast<std::uint8_t>(i * i >> 9 ^ i >> 20);
    const CheckpointPiece piece{"long", {kElements}, 0, ConstTensor(bytes_.data(), {kElements}, Dtype::u8)};
    save_checkpoint(*make_self_communicator(), folder_.path(), testing::sample_info(1), {&piece, 1}, {});
  }
  /// Changes a bit of an element.
  void damage(std::int64_t element) {
    const CheckpointReader reader(folder_.path());
    const StoredPlace place = reader.places("long").at(0);
    std::fstream file(reader.path() / place.file, std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(place.offset + element);
    file.put(static_cast<char>(bytes_[static_cast<std::size_t>(element)] ^ 16));
  }

  static constexpr std::int64_t kElements = kBlockBytes * 5 / 2;
  TemporaryFolder folder_;
  std::vector<std::uint8_t> bytes_ = std::vector<std::uint8_t>(kElements);
};

TEST_F(LongTensor, ReadingChecksEveryBlockThatItTouchesAndNoOther) {
  damage(kBlockBytes + 99);
  const CheckpointReader reader(folder_.path());
  const std::int64_t begin = reader.places("long").at(0).offset;
  for (const auto& [first, count] : {std::pair{std::int64_t{0}, kBlockBytes}, {2 * kBlockBytes, kBlockBytes / 2}}) {
    const std::vector<std::uint8_t> read = read_range(reader, "long", first, count);
    EXPECT_TRUE(std::equal(read.begin(), read.end(), bytes_.begin() + first));
  }
  for (const std::int64_t first : {kBlockBytes - 1, kBlockBytes, 2 * kBlockBytes - 2}) {
    const std::string said = failure_of([&] { read_range(reader, "long", first, 2); });
    EXPECT_TRUE(says(said, "tensor 'long' is damaged in file '" + reader.path().string())) << said;
    EXPECT_TRUE(says(said, text("at offset ", begin + kBlockBytes, " "))) << said;
  }
}

TEST_F(LongTensor, VerifyNamesTheFirstDamagedBlock) {
  damage(kBlockBytes + 99);
  damage(2 * kBlockBytes + 1);
  const CheckpointReader reader(folder_.path());
  const std::int64_t begin = reader.places("long").at(0).offset;
  const std::vector<Damage> damage = reader.verify();
  ASSERT_EQ(damage.size(), 1U);
  EXPECT_EQ(damage[0].tensor, "long");
  EXPECT_EQ(damage[0].offset, begin + kBlockBytes);
  EXPECT_TRUE(says(damage[0].what, "1 more block")) << damage[0].what;
}

TEST_F(LongTensor, ReadsAnyRangeOfItsBlocks) {
  const CheckpointReader reader(folder_.path());
  for (const std::int64_t first : {std::int64_t{0}, kBlockBytes - 1, kBlockBytes, 2 * kBlockBytes + 5}) {
    for (const std::int64_t count : {std::int64_t{1}, std::int64_t{2}, kBlockBytes, kElements}) {
      const std::int64_t some = std::min(count, kElements - first);
      const std::vector<std::uint8_t> read = read_range(reader, "long", first, some);
      ASSERT_TRUE(std::equal(read.begin(), read.end(), bytes_.begin() + first)) << first << " " << count;
    }
  }
}

TEST_F(CheckpointReaderTest, PlacesSayWhereTheBytesAre) {
  const CheckpointReader reader(run_dir());
  const testing::SampleTensor& tensor = sample_.tensors()[0];  // [7, 33] in pieces of 100, 100 and 31
  const std::vector<StoredPlace> places = reader.places(tensor.name);
  ASSERT_EQ(places.size(), 3U);
  std::int64_t first = 0;
  for (const StoredPlace& place : places) {
    EXPECT_EQ(place.first, first);
    EXPECT_EQ(place.file, part().filename().string());
    const std::string bytes =
        content_of(part()).substr(static_cast<std::size_t>(place.offset), static_cast<std::size_t>(place.count) * 4);
    EXPECT_TRUE(std::equal(bytes.begin(), bytes.end(), tensor.bytes.begin() + first * 4,
                           [](char a, std::uint8_t b) { return static_cast<std::uint8_t>(a) == b; }));
    first += place.count;
  }
  EXPECT_EQ(first, 231);
  EXPECT_TRUE(reader.places("moments/none").empty());
}

TEST_F(CheckpointReaderTest, RealNumbersAreConverted) {
  const std::vector<float> singles = {0, -1.5F, 1e-42F, 3.25e38F, 0.1F};
  const std::vector<double> doubles = {0, -1.5, 0.1, 1e300, 1 + 1e-12};
  const std::vector<std::uint16_t> halves = {0, 0xBFC0, 0x3DCC, 0x7F80, 1};
  const std::vector<CheckpointPiece> pieces = {
      {"singles", {5}, 0, ConstTensor(singles.data(), {5}, Dtype::f32)},
      {"doubles", {5}, 0, ConstTensor(doubles.data(), {5}, Dtype::f64)},
      {"halves", {5}, 0, ConstTensor(halves.data(), {5}, Dtype::bf16)},
  };
  save_checkpoint(*make_self_communicator(), run_dir(), testing::sample_info(500), pieces, {});
  const CheckpointReader reader(run_dir());
  std::vector<double> wide(4);
  const Tensor as_wide(wide.data(), {4}, Dtype::f64);
  reader.read("singles", 1, as_wide);
  EXPECT_EQ(wide, (std::vector<double>{-1.5, 1e-42F, 3.25e38F, 0.1F}));
  reader.read("halves", 1, as_wide);
  EXPECT_EQ(wide, (std::vector<double>{-1.5, 0.099609375, INFINITY, 0x1p-133}));
  std::vector<float> narrow(5);
  reader.read("doubles", 0, Tensor(narrow.data(), {5}, Dtype::f32));
  EXPECT_EQ(narrow, (std::vector<float>{0, -1.5F, 0.1F, INFINITY, 1}));
  reader.read("halves", 0, Tensor(narrow.data(), {5}, Dtype::f32));
  EXPECT_EQ(narrow, (std::vector<float>{0, -1.5F, 0.099609375F, INFINITY, 0x1p-133F}));
}

TEST_F(CheckpointReaderTest, AFileThatIsAnotherIsDamaged) {
  replace_content(part(), std::string(content_of(part()).size(), '\0'));
  const CheckpointReader reader(run_dir());
  const std::string said = failure_of([&] { read_range(reader, "counters", 0, 3); });
  EXPECT_TRUE(says(said, "tensor 'counters' is damaged") && says(said, part().string())) << said;
  EXPECT_GT(reader.verify().size(), sample_.tensors().size());
}

TEST_F(CheckpointReaderTest, AnUnfinishedCheckpointIsNotOpened) {
  std::filesystem::remove(step_dir() / "manifest.json");
  for (const std::filesystem::path& path : {run_dir(), step_dir()}) {
    const std::string said = failure_of([&] { CheckpointReader reader(path); });
    EXPECT_TRUE(says(said, path.string()) && says(said, "manifest")) << said;
  }
}

TEST_F(CheckpointReaderTest, APathThatIsNoFolderIsAnError) {
  const auto open = [](const std::filesystem::path& path) {
    return failure_of([&] { CheckpointReader reader(path); });
  };
  EXPECT_TRUE(says(open(run_dir() / "nowhere"), "there is no such folder"));
  EXPECT_TRUE(says(open(part()), "it is not a folder"));
}

}  // namespace
}  // namespace vitrail
