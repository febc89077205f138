#include <gtest/gtest.h>

#include "io/h5.hpp"
#include "tests/train/checkpoint_samples.hpp"
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
  /// Changes one bit of the part, in the data of a tensor.
  void flip_a_bit_of(const std::string& tensor) {
    const std::vector<std::uint8_t> bytes = read_range(CheckpointReader(run_dir()), tensor, 0, 100);
    std::string content = content_of(part());
    const std::size_t at = content.find(std::string(bytes.begin(), bytes.end()));
    ASSERT_NE(at, std::string::npos);
    content[at + 7] = static_cast<char>(content[at + 7] ^ 4);
    replace_content(part(), content);
  }

  TemporaryFolder folder_;
  Sample sample_;
};

TEST_F(CheckpointReaderTest, ReturnsTheBitsThatWereSaved) {
  const CheckpointReader reader(run_dir(), true);
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
  const CheckpointReader reader(other.path(), true);
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
  EXPECT_TRUE(says(read(0, 231, Dtype::f64), "is f32 (it is needed as f64)"));
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

TEST_F(CheckpointReaderTest, VerifyNoticesOneFlippedBit) {
  flip_a_bit_of("parameters/block/kernel");
  EXPECT_FALSE(holds(CheckpointReader(run_dir()), sample_));
  const std::string said = failure_of([&] { CheckpointReader reader(run_dir(), true); });
  EXPECT_TRUE(says(said, part().string()) && says(said, "is damaged")) << said;
}

TEST_F(CheckpointReaderTest, AFileThatIsNotHdf5AnyMoreIsAnError) {
  replace_content(part(), std::string(content_of(part()).size(), '\0'));
  const CheckpointReader reader(run_dir());
  const std::string said = failure_of([&] { read_range(reader, "counters", 0, 3); });
  EXPECT_TRUE(says(said, part().string())) << said;
}

TEST_F(CheckpointReaderTest, ADatasetOfAnotherTypeIsAnErrorAndNotConverted) {
  h5::File file = h5::File::create(part(), ExitCode::checkpoint);
  const std::vector<float> values = {1, 2, 3};
  file.write(piece_dataset("counters", 0), Dtype::f32, {3}, values.data());
  file.close();
  std::string content = content_of(part());
  const std::string manifest = content_of(step_dir() / "manifest.json");
  const std::int64_t bytes = Json::parse(manifest, "", ExitCode::other).at("files").items()[0].at("bytes").as_integer();
  content.resize(static_cast<std::size_t>(bytes));  // padding is not looked at
  replace_content(part(), content);
  const CheckpointReader reader(run_dir());
  const std::string said = failure_of([&] { read_range(reader, "counters", 0, 3); });
  EXPECT_TRUE(says(said, "counters/from-0") && says(said, "i64 [3] is expected")) << said;
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
