#include <gtest/gtest.h>

#include "tests/train/checkpoint_samples.hpp"
#include "tests/train/file_size_limit.hpp"
#include "train/checkpoint_manifest.hpp"
#include "train/checkpoint_stream.hpp"

namespace vitrail {
namespace {

using testing::failure_of;
using testing::holds;
using testing::Sample;
using testing::sample_info;
using testing::saved;
using testing::TemporaryFolder;
using Names = std::vector<std::string>;

bool says(const std::string& message, const std::string& words) { return message.find(words) != std::string::npos; }

/// The sample, in stretches of so many elements.
void stream(CheckpointStream& to, const Sample& sample, std::int64_t stretch) {
  for (const testing::SampleTensor& tensor : sample.tensors()) {
    to.begin(tensor.name, tensor.shape, tensor.dtype);
    const std::int64_t elements = tensor.shape.elements();
    for (std::int64_t first = 0; first < elements; first += stretch) {
      to.write(tensor.range(first, std::min(stretch, elements - first)));
    }
  }
}

class CheckpointStreamTest : public ::testing::Test {
 protected:
  [[nodiscard]] const std::filesystem::path& run_dir() const { return folder_.path(); }
  TemporaryFolder folder_;
  const Sample sample_;
};

TEST_F(CheckpointStreamTest, WritesWhatSavingWritesInAnyNumberOfFilesAndStretches) {
  const TemporaryFolder whole;
  testing::save(whole.path(), 7, sample_);
  const std::string digest = CheckpointReader(whole.path()).digest();
  for (const int files : {1, 2, 5}) {
    for (const std::int64_t stretch : {1 << 20, 100, 7}) {
      CheckpointStream writer(run_dir(), sample_info(7), files);
      stream(writer, sample_, stretch);
      const std::filesystem::path made = writer.finish();
      EXPECT_EQ(made, run_dir() / "checkpoints" / "step-00000007");
      const CheckpointReader reader(run_dir());
      EXPECT_TRUE(holds(reader, sample_)) << files << " " << stretch;
      EXPECT_EQ(reader.path(), made);
      EXPECT_EQ(reader.digest(), digest);
      EXPECT_EQ(read_manifest(made).files.size(), static_cast<std::size_t>(files));
    }
  }
}

TEST_F(CheckpointStreamTest, CutsTensorsIntoEqualRunsThatAreNotShort) {
  std::vector<std::int32_t> values(100'003);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<std::int32_t>(i);
  const auto counts_of = [&](std::int64_t elements, std::int64_t stretch) {
    CheckpointStream writer(run_dir(), sample_info(7), 4);
    writer.begin("x", {elements}, Dtype::i32);
    for (std::int64_t first = 0; first < elements; first += stretch) {
      writer.write(ConstTensor(values.data() + first, {std::min(stretch, elements - first)}, Dtype::i32));
    }
    writer.finish();
    const CheckpointReader reader(run_dir());
    EXPECT_TRUE(reader.verify().empty());
    std::vector<std::int32_t> read(static_cast<std::size_t>(elements));
    reader.read("x", 0, Tensor(read.data(), {elements}, Dtype::i32));
    EXPECT_TRUE(std::equal(read.begin(), read.end(), values.begin()));
    std::vector<std::int64_t> counts;
    for (const StoredPlace& place : reader.places("x")) {
      EXPECT_EQ(place.file, text("part-0000", counts.size(), "-of-00004.h5"));
      counts.push_back(place.count);
    }
    return counts;
  };
  using Counts = std::vector<std::int64_t>;
  for (const std::int64_t stretch : {100'003, 25'000, 999}) {
    EXPECT_EQ(counts_of(100'003, stretch), (Counts{25'000, 25'001, 25'001, 25'001})) << stretch;
  }
  EXPECT_EQ(counts_of(40'001, 7'000), (Counts{20'000, 20'001}));  // 2.4 times 64 KiB
  EXPECT_EQ(counts_of(3, 1), (Counts{3}));
}

TEST_F(CheckpointStreamTest, LongTensorsHaveTheSumsOfTheirBlocks) {
  const std::int64_t elements = kBlockBytes * 5 / 8;  // 2.5 blocks of f32
  const std::vector<float> values(static_cast<std::size_t>(elements), 1.25F);
  CheckpointStream writer(run_dir(), sample_info(7));
  writer.begin("long", {elements}, Dtype::f32);
  writer.write(ConstTensor(values.data(), {elements - 5}, Dtype::f32));
  writer.write(ConstTensor(values.data(), {5}, Dtype::f32));
  writer.finish();
  EXPECT_EQ(read_manifest(CheckpointReader(run_dir()).path()).tensors.at("long").pieces.at(0).sums.size(), 3U * 64U);
  EXPECT_TRUE(CheckpointReader(run_dir()).verify().empty());
}

TEST_F(CheckpointStreamTest, WithoutFinishNothingIsLeftAndTheOneBeforeIsGood) {
  testing::save(run_dir(), 3, sample_);
  {
    CheckpointStream writer(run_dir(), sample_info(7), 2);
    stream(writer, sample_, 100);
    EXPECT_EQ(saved(run_dir()), (Names{"latest", "step-00000003", "step-00000007.tmp"}));
  }
  EXPECT_EQ(saved(run_dir()), (Names{"latest", "step-00000003"}));
  EXPECT_TRUE(holds(CheckpointReader(run_dir()), sample_));
}

TEST_F(CheckpointStreamTest, AFullDiskIsAnErrorAndNothingIsLeft) {
  testing::save(run_dir(), 3, sample_);
  for (const rlim_t bytes : {0, 1000, 5000}) {
    const std::string said = failure_of([&] {
      const testing::FileSizeLimit limit(bytes);
      CheckpointStream writer(run_dir(), sample_info(7), 2);
      stream(writer, Sample(2), 100);
      writer.finish();
    });
    EXPECT_TRUE(says(said, "File too large")) << said;
    EXPECT_EQ(saved(run_dir()), (Names{"latest", "step-00000003"}));
  }
}

TEST_F(CheckpointStreamTest, RefusesWhatDoesNotMakeWholeTensors) {
  CheckpointStream writer(run_dir(), sample_info(7));
  const std::vector<float> values(8);
  const ConstTensor four{values.data(), {4}, Dtype::f32};
  EXPECT_TRUE(says(failure_of([&] { writer.write(four); }), "none was begun"));
  EXPECT_TRUE(says(failure_of([&] { writer.begin("/x", {1}, Dtype::f32); }), "single slashes"));
  EXPECT_TRUE(says(failure_of([&] { writer.begin("x", {1}, Dtype::c128); }), "complex"));
  writer.begin("x", {6}, Dtype::f32);
  EXPECT_TRUE(says(failure_of([&] { writer.write({values.data(), {2}, Dtype::f64}); }), "it is made of f32"));
  writer.write(four);
  EXPECT_TRUE(says(failure_of([&] { writer.write(four); }), "no more than its shape says"));
  EXPECT_TRUE(says(failure_of([&] { writer.begin("y", {1}, Dtype::f32); }), "ends after 4 elements (it has 6)"));
  EXPECT_TRUE(says(failure_of([&] { writer.finish(); }), "ends after 4 elements (it has 6)"));
  writer.write(four.slice(0, 2));
  EXPECT_TRUE(says(failure_of([&] { writer.begin("x", {1}, Dtype::f32); }), "cannot be written twice"));
}

}  // namespace
}  // namespace vitrail
