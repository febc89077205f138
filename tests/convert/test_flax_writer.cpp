#include <gtest/gtest.h>

#include "base/json.hpp"
#include "io/h5.hpp"
#include "tests/convert/flax_samples.hpp"
#include "tests/errors.hpp"
#include "tests/train/file_size_limit.hpp"

namespace vitrail {
namespace {

using testing::content_of;
using testing::error_of;
using testing::FlaxFolder;
using testing::FlaxTensor;
using testing::golden;
using testing::random_tensor;

std::vector<FlaxTensor> samples() {
  return {random_tensor("params/kernel", {7, 33}, Dtype::f32),
          random_tensor("params/block_2/bias", {33}, Dtype::bf16),
          random_tensor("params/block_10/experts", {4, 6, 10, 3}, Dtype::f32),
          random_tensor("step", {}, Dtype::i64),
          random_tensor("count", {1}, Dtype::i32),
          random_tensor("none", {0, 3}, Dtype::f64),
          random_tensor("bytes", {17, 2}, Dtype::u8)};
}

FlaxCut cut_of(std::int64_t shards, std::int64_t slice_bytes, std::int64_t piece_bytes) {
  FlaxCut cut;
  cut.shards = shards;
  cut.slice_bytes = slice_bytes;
  cut.piece_bytes = piece_bytes;
  return cut;
}

void expect_equal(TensorSource& source, const std::vector<FlaxTensor>& tensors) {
  EXPECT_EQ(source.tensors().size(), tensors.size());
  for (const FlaxTensor& tensor : tensors) EXPECT_EQ(testing::read_whole(source, tensor.info), tensor.bytes);
}

TEST(FlaxWriter, WritesWhatIsReadBackHoweverItIsCut) {
  const std::vector<FlaxTensor> tensors = samples();
  for (const FlaxCut& cut :
       {cut_of(1, 1 << 28, 1 << 30), cut_of(3, 100, 1 << 30), cut_of(2, 500, 70), cut_of(5, 8, 8), cut_of(1, 1, 1)}) {
    for (const std::int64_t stretch : {1, 13, 1 << 20}) {
      const FlaxFolder folder;
      testing::write_tensors(*create_flax(folder / "ckpt", testing::infos_of(tensors), cut), tensors, stretch);
      expect_equal(*open_flax(folder / "ckpt"), tensors);
    }
  }
}

/// The official files were written by two devices: each had half of the experts.
FlaxCut as_official(const Json& config) {
  FlaxCut cut = cut_of(config.at("num_shards").as_integer(), config.at("max_chunk_bytes").as_integer(), 1 << 30);
  cut.devices = [](const TensorInfo& info) { return info.name.find("Moe/Mlp") != std::string::npos ? 2 : 1; };
  return cut;
}

TEST(FlaxWriter, WritesTheSameBytesAsTheOfficialWriter) {
  // Not train_state: its uint32 leaf is read, and so written, as int64.
  for (const std::string name : {"checkpoint_vmoe_params", "checkpoint_vmoe_sharded"}) {
    const h5::File h5 = h5::File::open(golden(name + ".h5"), ExitCode::data);
    const Json config = Json::parse(h5.read_string("/", "config"), "config", ExitCode::data);
    const auto source = open_flax(golden(name + "/ckpt_7"));
    const std::vector<FlaxTensor> tensors = testing::read_tensors(*source);
    const FlaxFolder folder;
    testing::write_tensors(*create_flax(folder / "ckpt_7", testing::infos_of(tensors), as_official(config)), tensors,
                           1000);
    std::vector<std::string> names;
    for (const Json& file : config.at("files").items()) names.push_back(file.as_string());
    EXPECT_EQ(folder.names(), names);
    for (const std::string& file : names) {
      EXPECT_TRUE(content_of(folder / file) == content_of(golden(text(name, "/", file)))) << name << " " << file;
    }
  }
}

TEST(FlaxWriter, LeavesNothingUnderItsNameBeforeTheEnd) {
  const std::vector<FlaxTensor> tensors = samples();
  const FlaxFolder folder;
  {
    const auto sink = create_flax(folder / "ckpt", testing::infos_of(tensors), 2);
    EXPECT_EQ(folder.names(),
              (std::vector<std::string>{".tmp.ckpt.data-00000-of-00002", ".tmp.ckpt.data-00001-of-00002"}));
    sink->write(ConstTensor(tensors[0].bytes.data(), {10}, Dtype::f32));
  }
  EXPECT_TRUE(folder.names().empty());
}

TEST(FlaxWriter, KeepsTheOldCheckpointUntilTheNewOneIsWhole) {
  const std::vector<FlaxTensor> tensors = samples();
  const std::vector<FlaxTensor> other{random_tensor("other", {50}, Dtype::f32)};
  const FlaxFolder folder;
  testing::write_tensors(*create_flax(folder / "ckpt", testing::infos_of(tensors), 1), tensors, 100);
  {
    const auto sink = create_flax(folder / "ckpt", testing::infos_of(other), 1);
    sink->write(ConstTensor(other[0].bytes.data(), {10}, Dtype::f32));
  }
  expect_equal(*open_flax(folder / "ckpt"), tensors);
  testing::write_tensors(*create_flax(folder / "ckpt", testing::infos_of(other), 1), other, 100);
  expect_equal(*open_flax(folder / "ckpt"), other);
}

TEST(FlaxWriter, NeverLeavesAnIndexBesideDataThatAreNotItsOwn) {
  const std::vector<FlaxTensor> tensors = samples();
  const FlaxFolder folder;
  testing::write_tensors(*create_flax(folder / "ckpt", testing::infos_of(tensors), 2), tensors, 100);
  // The second data file cannot be replaced.
  std::filesystem::remove(folder / "ckpt.data-00001-of-00002");
  std::filesystem::create_directories(folder / "ckpt.data-00001-of-00002/folder");
  const Error error = error_of(
      [&] { testing::write_tensors(*create_flax(folder / "ckpt", testing::infos_of(tensors), 2), tensors, 100); });
  EXPECT_EQ(error.code(), ExitCode::checkpoint);
  EXPECT_EQ(folder.names(), (std::vector<std::string>{"ckpt.data-00000-of-00002", "ckpt.data-00001-of-00002"}));
}

TEST(FlaxWriter, RefusesToFinishWithoutAllElements) {
  const std::vector<FlaxTensor> tensors = samples();
  const FlaxFolder folder;
  const auto sink = create_flax(folder / "ckpt", testing::infos_of(tensors), 1);
  sink->write(ConstTensor(tensors[0].bytes.data(), {10}, Dtype::f32));
  const Error error = error_of([&] { sink->finish(); });
  EXPECT_EQ(error.code(), ExitCode::checkpoint);
  EXPECT_NE(std::string(error.what()).find("'params/kernel'"), std::string::npos);
  EXPECT_EQ(
      error_of([&] { sink->write(ConstTensor(tensors[0].bytes.data(), {std::int64_t{7} * 33}, Dtype::f32)); }).code(),
      ExitCode::checkpoint);
  EXPECT_EQ(error_of([&] { sink->write(ConstTensor(tensors[0].bytes.data(), {1}, Dtype::i32)); }).code(),
            ExitCode::checkpoint);
}

TEST(FlaxWriter, TellsOfAFullDiskAndCleansUp) {
  const std::vector<FlaxTensor> tensors{random_tensor("a", {10000}, Dtype::f32)};
  const FlaxFolder folder;
  std::string said;
  {
    const testing::FileSizeLimit limit(5000);
    said = error_of([&] {
             testing::write_tensors(*create_flax(folder / "ckpt", testing::infos_of(tensors), 1), tensors, 1 << 20);
           }).what();
  }
  EXPECT_NE(said.find("cannot write"), std::string::npos) << said;
  EXPECT_NE(said.find("Free some space"), std::string::npos) << said;
  EXPECT_TRUE(folder.names().empty());
}

TEST(FlaxWriter, TellsOfAFolderThatIsNotThere) {
  const FlaxFolder folder;
  const Error error = error_of([&] { create_flax(folder / "none/ckpt", {{"a", {3}, Dtype::f32}}, 1); });
  EXPECT_EQ(error.code(), ExitCode::checkpoint);
}

TEST(FlaxWriter, RefusesNamesThatCannotStandInATree) {
  const FlaxFolder folder;
  const std::vector<TensorInfo> infos{{"a", {3}, Dtype::f32}, {"a/b", {3}, Dtype::f32}};
  EXPECT_EQ(error_of([&] { create_flax(folder / "ckpt", infos, 1); }).code(), ExitCode::checkpoint);
  EXPECT_TRUE(folder.names().empty());
}

}  // namespace
}  // namespace vitrail
