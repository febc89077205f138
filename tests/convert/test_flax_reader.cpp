#include <cstring>

#include <gtest/gtest.h>

#include "base/bf16.hpp"
#include "io/h5.hpp"
#include "tests/convert/flax_samples.hpp"
#include "tests/errors.hpp"

namespace vitrail {
namespace {

using testing::content_of;
using testing::error_of;
using testing::FlaxFolder;
using testing::FlaxTensor;
using testing::golden;
using testing::put;
using testing::random_tensor;

template <class T>
std::vector<double> doubles(const std::string& bytes) {
  std::vector<T> values(bytes.size() / sizeof(T));
  std::memcpy(values.data(), bytes.data(), bytes.size());
  std::vector<double> widened;
  for (const T value : values) {
    if constexpr (std::is_same_v<T, Bf16>) {
      widened.push_back(static_cast<double>(to_float(value)));
    } else {
      widened.push_back(static_cast<double>(value));
    }
  }
  return widened;
}

std::vector<double> read_doubles(TensorSource& source, const TensorInfo& info) {
  const std::string bytes = testing::read_whole(source, info);
  if (info.dtype == Dtype::f32) return doubles<float>(bytes);
  if (info.dtype == Dtype::bf16) return doubles<Bf16>(bytes);
  if (info.dtype == Dtype::i32) return doubles<std::int32_t>(bytes);
  if (info.dtype == Dtype::i64) return doubles<std::int64_t>(bytes);
  throw std::runtime_error("not in the golden files");
}

TEST(FlaxReader, ReadsTheOfficialFilesBitForBit) {
  for (const std::string name : {"vmoe_params", "vmoe_sharded", "train_state"}) {
    const h5::File h5 = h5::File::open(golden("checkpoint_" + name + ".h5"), ExitCode::data);
    const auto source = open_flax(golden("checkpoint_" + name + "/ckpt_7"));
    std::vector<std::string> names;
    for (const TensorInfo& info : source->tensors()) {
      names.push_back(info.name);
      const auto lengths = info.shape.lengths();
      EXPECT_EQ(h5.info("/tensors/" + info.name).shape, h5::Shape(lengths.begin(), lengths.end())) << info.name;
      // Finite, and every one of the types is exact as a double; the files have no -0.0.
      EXPECT_EQ(read_doubles(*source, info), h5.read<double>("/tensors/" + info.name)) << info.name;
    }
    std::sort(names.begin(), names.end());
    EXPECT_EQ(names, h5.datasets_below("/tensors"));
  }
}

TEST(FlaxReader, KeepsTheTypesOfATrainingState) {
  const auto source = open_flax(golden("checkpoint_train_state/ckpt_7"));
  std::vector<std::string> found;
  for (const TensorInfo& info : source->tensors()) {
    found.push_back(text(info.name, " ", name_of(info.dtype), " ", info.shape.str()));
  }
  EXPECT_EQ(found, (std::vector<std::string>{"opt_state/0/count i32 []", "opt_state/0/mu/a bf16 [5, 3]",
                                             "params/Moe/Mlp/kernel f32 [4, 6, 2]", "params/a f32 [5, 3]",
                                             "rngs/gating i64 [2]", "step i32 []"}));
}

TEST(FlaxReader, FindsACheckpointByAnyOfItsNames) {
  for (const char* name : {"ckpt_7", "ckpt_7.index", "ckpt_7.data-00001-of-00003"}) {
    const auto source = open_flax(golden(std::string("checkpoint_vmoe_sharded/") + name));
    EXPECT_EQ(source->tensors().size(), 202U);
  }
}

TEST(FlaxReader, ReadsAnyStretchOfATensorInSlices) {
  const FlaxFolder folder;
  const std::vector<FlaxTensor> tensors{random_tensor("a", {6, 10, 4}, Dtype::f32),
                                        random_tensor("b", {3, 5}, Dtype::bf16)};
  FlaxCut cut;
  cut.shards = 3;
  cut.slice_bytes = 100;
  cut.piece_bytes = 24;
  testing::write_tensors(*create_flax(folder / "c", testing::infos_of(tensors), cut), tensors, 50);
  const auto source = open_flax(folder / "c");
  for (const FlaxTensor& tensor : tensors) {
    const auto size = static_cast<std::size_t>(size_of(tensor.info.dtype));
    for (std::int64_t first = 0; first <= tensor.info.shape.elements(); first += 7) {
      for (std::int64_t count = 0; count <= tensor.info.shape.elements() - first; count += 3) {
        EXPECT_EQ(testing::read_range(*source, tensor.info, first, count),
                  tensor.bytes.substr(static_cast<std::size_t>(first) * size, static_cast<std::size_t>(count) * size));
      }
    }
  }
}

TEST(FlaxReader, ReadsSlicesLongerThanItsBuffer) {
  const FlaxFolder folder;
  // Split along the second axis, in runs of 4 bytes and of 3 MiB.
  const std::vector<FlaxTensor> tensors{random_tensor("narrow", {3000000, 2}, Dtype::u8),
                                        random_tensor("wide", {4, 3000000}, Dtype::u8)};
  FlaxCut cut;
  cut.shards = 2;
  cut.slice_bytes = 3000000;
  cut.piece_bytes = 1700000;
  testing::write_tensors(*create_flax(folder / "c", testing::infos_of(tensors), cut), tensors, 1300001);
  const auto source = open_flax(folder / "c");
  for (const FlaxTensor& tensor : tensors) {
    EXPECT_TRUE(testing::read_whole(*source, tensor.info) == tensor.bytes);
    EXPECT_TRUE(testing::read_range(*source, tensor.info, 999999, 2222222) == tensor.bytes.substr(999999, 2222222));
  }
}

TEST(FlaxReader, RefusesElementsThatATensorHasNot) {
  const auto source = open_flax(golden("checkpoint_vmoe_params/ckpt_7"));
  std::vector<float> to(100);
  const auto refused = [&](const std::string& name, std::int64_t first, std::int64_t count, Dtype dtype) {
    const Error error = error_of([&] { source->read(name, first, Tensor(to.data(), {count}, dtype)); });
    EXPECT_NE(std::string(error.what()).find(name), std::string::npos);
    return error.code() == ExitCode::checkpoint;
  };
  EXPECT_TRUE(refused("head/bias", 0, 6, Dtype::f32));
  EXPECT_TRUE(refused("head/bias", -1, 2, Dtype::f32));
  EXPECT_TRUE(refused("head/bias", std::numeric_limits<std::int64_t>::max(), 2, Dtype::f32));
  EXPECT_TRUE(refused("head/bias", 0, 2, Dtype::f64));
  EXPECT_TRUE(refused("head/byas", 0, 1, Dtype::f32));
  source->read("head/bias", 5, Tensor(to.data(), {0}, Dtype::f32));
}

/// A checkpoint of the official writer that may be damaged.
class DamagedCheckpoint : public ::testing::Test {
 protected:
  void SetUp() override {
    for (const char* name : {"ckpt_7.index", "ckpt_7.data-00000-of-00002", "ckpt_7.data-00001-of-00002"}) {
      put(folder_ / name, content_of(golden(std::string("checkpoint_train_state/") + name)));
    }
  }
  /// Opens it and reads everything.
  void read_all() { testing::read_tensors(*open_flax(folder_ / "ckpt_7")); }

  const FlaxFolder folder_;
};

TEST_F(DamagedCheckpoint, IsReadWhenItIsNot) { read_all(); }

TEST_F(DamagedCheckpoint, IsRefusedWhereverAFileEnds) {
  for (const std::string name : {"ckpt_7.index", "ckpt_7.data-00001-of-00002"}) {
    const std::string whole = content_of(folder_ / name);
    for (std::size_t length = 0; length < whole.size(); ++length) {
      put(folder_ / name, whole.substr(0, length));
      const Error error = error_of([&] { read_all(); });
      EXPECT_EQ(error.code(), ExitCode::checkpoint) << name << " " << length;
      EXPECT_NE(std::string(error.what()).find(name), std::string::npos);
    }
    put(folder_ / name, whole);
  }
}

TEST_F(DamagedCheckpoint, NeverCrashesOnChangedBytes) {
  // Changed numbers, names or elements may make another valid file; what matters is an Error or none.
  std::mt19937 engine(7);
  for (const std::string name : {"ckpt_7.index", "ckpt_7.data-00000-of-00002"}) {
    const std::string whole = content_of(folder_ / name);
    int refused = 0;
    for (std::size_t at = 0; at < whole.size(); ++at) {
      for (const unsigned flip : {0x01U, 0x80U, 0xffU, static_cast<unsigned>(engine() % 255) + 1}) {
        std::string changed = whole;
        changed[at] = static_cast<char>(static_cast<unsigned char>(changed[at]) ^ flip);
        put(folder_ / name, changed);
        const ExitCode code = error_of([&] { read_all(); }).code();
        EXPECT_TRUE(code == ExitCode::checkpoint || code == ExitCode::done) << at;
        refused += code == ExitCode::checkpoint ? 1 : 0;
      }
    }
    EXPECT_GT(refused, std::ssize(whole));
    put(folder_ / name, whole);
  }
}

TEST_F(DamagedCheckpoint, IsRefusedWithoutOneOfItsFiles) {
  std::filesystem::remove(folder_ / "ckpt_7.data-00001-of-00002");
  const Error error = error_of([&] { read_all(); });
  EXPECT_EQ(error.code(), ExitCode::checkpoint);
  EXPECT_NE(std::string(error.what()).find("ckpt_7.data-00001-of-00002"), std::string::npos);
}

TEST_F(DamagedCheckpoint, IsRefusedWhenItsFilesAreThoseOfAnother) {
  put(folder_ / "ckpt_7.data-00001-of-00002", content_of(folder_ / "ckpt_7.data-00000-of-00002"));
  const Error error = error_of([&] { read_all(); });
  EXPECT_EQ(error.code(), ExitCode::checkpoint);
  EXPECT_NE(std::string(error.what()).find("Are all files of one checkpoint?"), std::string::npos) << error.what();
}

TEST_F(DamagedCheckpoint, IsRefusedWhenADataFileLacksATensor) {
  MsgpackWriter out;
  out.map(1);
  out.string(kFlaxChunksKey);
  out.boolean(true);
  put(folder_ / "ckpt_7.data-00001-of-00002", out.bytes());
  const Error error = error_of([&] { read_all(); });
  EXPECT_EQ(error.code(), ExitCode::checkpoint);
  EXPECT_NE(std::string(error.what()).find("lack a part of tensor 'opt_state/0/mu/a'"), std::string::npos)
      << error.what();
}

TEST_F(DamagedCheckpoint, IsRefusedUnderANameThatSaysNothing) {
  std::filesystem::rename(folder_ / "ckpt_7.index", folder_ / "renamed");
  EXPECT_NE(std::string(error_of([&] { open_flax(folder_ / "renamed"); }).what()).find("under another name"),
            std::string::npos);
  EXPECT_EQ(error_of([&] { open_flax(folder_ / "nothing"); }).code(), ExitCode::checkpoint);
}

TEST_F(DamagedCheckpoint, IsReadWithoutAVersion) {
  // The map's last key and value, "version": "20220622".
  std::string index = content_of(folder_ / "ckpt_7.index");
  index.resize(index.size() - 17);
  index[0] = '\x82';
  put(folder_ / "ckpt_7.index", index);
  read_all();
}

}  // namespace
}  // namespace vitrail
