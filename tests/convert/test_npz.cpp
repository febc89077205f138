#include <bit>
#include <random>

#include <gtest/gtest.h>

#include "convert/npy_header.hpp"
#include "convert/npz.hpp"
#include "io/h5.hpp"
#include "tests/convert/sample_tensors.hpp"
#include "tests/errors.hpp"
#include "tests/io/zip_bytes.hpp"
#include "tests/scratch_folder.hpp"

namespace vitrail {
namespace {

using testing::bytes_of;
using testing::error_of;
using testing::expect_samples;
using testing::expect_says;
using testing::read_whole;
using testing::sample_tensor;
using testing::SampleTensor;
using testing::write_bytes;
using testing::write_samples;
using testing::zip_bytes;

class Npz : public ::testing::Test {
 protected:
  void write(const std::vector<SampleTensor>& tensors, std::int64_t stretch = 1000) const {
    const auto sink = create_npz(path_, infos(tensors));
    write_samples(*sink, tensors, stretch);
    sink->finish();
  }

  testing::ScratchFolder folder_;
  std::filesystem::path path_ = folder_ / "a.npz";
};

TEST_F(Npz, ReadsBackEveryDtypeAndShape) {
  const std::vector<SampleTensor> tensors = testing::sample_tensors();
  for (const std::int64_t stretch : {std::int64_t{7}, std::int64_t{1000000}}) {
    write(tensors, stretch);
    const auto source = open_npz(path_);
    const std::vector<TensorInfo> found(source->tensors().begin(), source->tensors().end());
    EXPECT_EQ(found, infos(tensors));  // in the same order
    expect_samples(*source, tensors);
  }
}

TEST_F(Npz, ReadsStoredAndCompressedArrays) {
  const SampleTensor a = sample_tensor("a/kernel", {37, 11}, Dtype::f32);
  const SampleTensor b = sample_tensor("b", {}, Dtype::i64);
  write_bytes(path_, zip_bytes({{"a/kernel.npy", npy_header(a.info) + a.bytes, true},
                                {"b.npy", npy_header(b.info) + b.bytes}}));
  expect_samples(*open_npz(path_), {a, b});
}

TEST_F(Npz, ReadsHalfPrecisionAsF32) {
  std::string header = npy_header({"x", {3}, Dtype::f32});
  header.replace(header.find("<f4"), 3, "<f2");
  write_bytes(path_, zip_bytes({{"x.npy", header + std::string("\x00\x3C\x00\xC0\xFF\x7B", 6)}}));
  const auto source = open_npz(path_);
  const TensorInfo info = source->tensors()[0];
  EXPECT_EQ(info, (TensorInfo{"x", {3}, Dtype::f32}));
  std::vector<float> values(3);
  source->read("x", 0, {values.data(), {3}, Dtype::f32});
  EXPECT_EQ(values, (std::vector<float>{1, -2, 65504}));
  source->read("x", 1, {values.data(), {2}, Dtype::f32});
  EXPECT_EQ(values, (std::vector<float>{-2, 65504, 65504}));
}

/// Files in the layout of the published ViT checkpoints, saved by NumPy.
TEST_F(Npz, ReadsWhatTheOfficialSoftwareWrote) {
  const std::filesystem::path golden = std::filesystem::path(VITRAIL_SOURCE_DIR) / "tests/golden";
  for (const std::string name : {"checkpoint_upcycle_augreg", "checkpoint_upcycle_zoom"}) {
    const auto source = open_npz(golden / name / "vit.npz");
    const h5::File expected = h5::File::open(golden / (name + ".h5"), ExitCode::data);
    const std::vector<std::string> names = expected.datasets_below("source");
    ASSERT_EQ(source->tensors().size(), names.size());
    EXPECT_GT(names.size(), 50U);
    for (const TensorInfo& tensor : source->tensors()) {
      ASSERT_TRUE(expected.has("source/" + tensor.name)) << tensor.name;
      const h5::Shape shape(tensor.shape.lengths().begin(), tensor.shape.lengths().end());
      EXPECT_EQ(expected.info("source/" + tensor.name).shape, shape) << tensor.name;
      std::vector<float> values(static_cast<std::size_t>(tensor.shape.elements()));
      source->read(tensor.name, 0, {values.data(), tensor.shape, Dtype::f32});
      EXPECT_EQ(values, expected.read<float>("source/" + tensor.name)) << tensor.name;
    }
  }
}

TEST_F(Npz, FindsOneFlippedBitAndNamesTheTensor) {
  const std::vector<SampleTensor> tensors{sample_tensor("head/kernel", {50, 50}, Dtype::f32),
                                          sample_tensor("head/bias", {50}, Dtype::f32)};
  write(tensors);
  std::string damaged = bytes_of(path_);
  const std::size_t at = damaged.find(tensors[0].bytes.substr(100, 50));
  ASSERT_NE(at, std::string::npos);
  damaged[at] = static_cast<char>(damaged[at] ^ 4);
  write_bytes(path_, damaged);
  const auto source = open_npz(path_);
  expect_says(error_of([&] { read_whole(*source, tensors[0].info); }),
              "entry 'head/kernel.npy' of '" + path_.string() + "' cannot be read (CRC error)");
  EXPECT_EQ(read_whole(*source, tensors[1].info), tensors[1].bytes);
}

TEST_F(Npz, SaysWhatIsNoArrayOrThereTwice) {
  const std::string array = npy_header({"x", {1}, Dtype::f32}) + "1234";
  write_bytes(path_, zip_bytes({{"x.npy", array}, {"readme.txt", "hello"}}));
  expect_says(error_of([&] { open_npz(path_); }), "entry 'readme.txt' of '" + path_.string() + "' is no array");
  write_bytes(path_, zip_bytes({{"x.npy", array}, {"x.npy", array}}));
  expect_says(error_of([&] { open_npz(path_); }), "tensor 'x' of '" + path_.string() + "' is there twice");
  write_bytes(path_, zip_bytes({{"x.npy", array + "5"}}));
  expect_says(error_of([&] { open_npz(path_); }), "tensor 'x' of '" + path_.string() + "' has 5 bytes of data");
  write_bytes(path_, zip_bytes({}));
  EXPECT_TRUE(open_npz(path_)->tensors().empty());
}

TEST_F(Npz, WritesOnlyWhatWasAnnounced) {
  const SampleTensor x = sample_tensor("x", {4}, Dtype::f32);
  const auto sink = create_npz(path_, {x.info});
  expect_says(error_of([&] { sink->finish(); }), "tensor 'x' of '" + path_.string() + "' is not complete");
  expect_says(error_of([&] { sink->write({x.bytes.data(), {5}, Dtype::f32}); }), "is given 5 elements");
  write_samples(*sink, {x}, 3);
  sink->finish();
  expect_samples(*open_npz(path_), {x});
  expect_says(error_of([&] { create_npz(path_, {x.info, x.info}); }), "is there twice");
  expect_says(error_of([&] { create_npz(path_, {{"x", {1}, Dtype::c128}}); }), "c128");
  expect_samples(*open_npz(path_), {x});  // still the old one
}

TEST_F(Npz, AnswersDamageOfAnyKindWithAnError) {
  const SampleTensor a = sample_tensor("a", {5, 3}, Dtype::f32);
  const SampleTensor b = sample_tensor("b", {20}, Dtype::u8);
  const std::string intact =
      zip_bytes({{"a.npy", npy_header(a.info) + a.bytes}, {"b.npy", npy_header(b.info) + b.bytes, true}});
  std::mt19937 random(11);
  int refused = 0;
  for (int round = 0; round < 3000; ++round) {
    std::string damaged = intact;
    for (std::size_t changes = 1 + random() % 3; changes > 0; --changes) {
      damaged[random() % damaged.size()] = static_cast<char>(random() % 3 == 0 ? 0xFF : random());
    }
    write_bytes(path_, damaged);
    const Error error = error_of([&] { testing::read_everything(*open_npz(path_), 1000); });
    if (error.code() != ExitCode::done) expect_says(error, path_.string());
    refused += error.code() != ExitCode::done ? 1 : 0;
  }
  EXPECT_GT(refused, 1500);
}

}  // namespace
}  // namespace vitrail
