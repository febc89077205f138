#include <random>

#include <gtest/gtest.h>

#include "base/json.hpp"
#include "convert/safetensors.hpp"
#include "convert/safetensors_header.hpp"
#include "tests/convert/sample_tensors.hpp"
#include "tests/errors.hpp"
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

std::string with_length(const std::string& json, std::uint64_t length) {
  std::string bytes;
  for (int i = 0; i < 8; ++i) bytes += static_cast<char>(length >> (8 * i) & 0xFF);
  return bytes + json;
}

class Safetensors : public ::testing::Test {
 protected:
  void write(const std::vector<SampleTensor>& tensors, std::int64_t stretch = 1000,
             const std::map<std::string, std::string>& metadata = {}, std::int64_t max_bytes = kShardBytes) const {
    const auto sink = create_safetensors(path_, infos(tensors), metadata, max_bytes);
    write_samples(*sink, tensors, stretch);
    sink->finish();
  }
  void write_by_hand(const std::string& json, const std::string& data) const {
    write_bytes(path_, with_length(json, json.size()) + data);
  }
  [[nodiscard]] Error error_of_hand_made(const std::string& json, const std::string& data) const {
    write_by_hand(json, data);
    return error_of([&] { testing::read_everything(*open_safetensors(path_), 1000); });
  }
  [[nodiscard]] std::vector<std::string> files() const {
    std::vector<std::string> names;
    for (const auto& one : std::filesystem::directory_iterator(folder_.path())) names.push_back(one.path().filename());
    std::sort(names.begin(), names.end());
    return names;
  }

  testing::ScratchFolder folder_;
  std::filesystem::path path_ = folder_ / "model.safetensors";
};

TEST_F(Safetensors, ReadsBackEveryDtypeAndShape) {
  const std::vector<SampleTensor> tensors = testing::sample_tensors();
  for (const std::int64_t stretch : {std::int64_t{7}, std::int64_t{1000000}}) {
    write(tensors, stretch, {{"format", "pt"}, {"made \"by\"", "Vitrail\n"}});
    expect_samples(*open_safetensors(path_), tensors);
    EXPECT_EQ(safetensors_metadata(path_),
              (std::map<std::string, std::string>{{"format", "pt"}, {"made \"by\"", "Vitrail\n"}}));
  }
  EXPECT_EQ(files(), std::vector<std::string>{"model.safetensors"});
}

TEST_F(Safetensors, AlignsHeaderAndTensors) {
  const std::vector<SampleTensor> tensors{sample_tensor("byte", {3}, Dtype::u8), sample_tensor("f32", {5}, Dtype::f32),
                                          sample_tensor("bf16", {1}, Dtype::bf16),
                                          sample_tensor("f64", {1}, Dtype::f64)};
  write(tensors);
  const std::string bytes = bytes_of(path_);
  const auto length = static_cast<unsigned char>(bytes[0]) + 256U * static_cast<unsigned char>(bytes[1]);
  EXPECT_EQ(length % 8, 0U);
  EXPECT_EQ(bytes.size(), 8 + length + 3 + 20 + 2 + 8);
  const SafetensorsHeader header = parse_safetensors_header(bytes.substr(8, length), "x", 33);
  for (const PlacedTensor& tensor : header.tensors) EXPECT_EQ(tensor.begin % size_of(tensor.info.dtype), 0);
}

TEST_F(Safetensors, WritesAListOfNothing) {
  write({});
  EXPECT_EQ(bytes_of(path_), with_length("{}      ", 8));
  EXPECT_TRUE(open_safetensors(path_)->tensors().empty());
}

TEST_F(Safetensors, ReadsFilesOfOthers) {
  // Tensors in another order than their data, blanks, metadata behind, f16.
  write_by_hand(R"({ "b":{"dtype":"I32","shape":[],"data_offsets":[8,12]}, "a" : {"shape":[2,2],"dtype":"F16",)"
                R"("data_offsets":[0,8]},"none":{"dtype":"F64","shape":[0],"data_offsets":[8,8]},)"
                R"("__metadata__":{"format":"pt"}}   )",
                std::string("\x00\x3C\x00\xC0\x00\x00\xFF\x7B\x05\x00\x00\x00", 12));
  const auto source = open_safetensors(path_);
  EXPECT_EQ(std::vector<TensorInfo>(source->tensors().begin(), source->tensors().end()),
            (std::vector<TensorInfo>{{"a", {2, 2}, Dtype::f32}, {"none", {0}, Dtype::f64}, {"b", {}, Dtype::i32}}));
  std::vector<float> values(4);
  source->read("a", 0, {values.data(), {4}, Dtype::f32});
  EXPECT_EQ(values, (std::vector<float>{1, -2, 0, 65504}));
  std::int32_t five = 0;
  source->read("b", 0, {&five, {}, Dtype::i32});
  EXPECT_EQ(five, 5);
  EXPECT_EQ(safetensors_metadata(path_).at("format"), "pt");
}

TEST_F(Safetensors, RefusesPlacesThatCannotBe) {
  const auto said = [&](const std::string& shape, const std::string& offsets) {
    return error_of_hand_made(R"({"x":{"dtype":"F32","shape":)" + shape + R"(,"data_offsets":)" + offsets + "}}",
                              "12345678");
  };
  EXPECT_EQ(said("[2]", "[0,8]").code(), ExitCode::done);
  expect_says(said("[2]", "[0,9]"), "tensor 'x' of '" + path_.string() + "' cannot lie in bytes 0 .. 9");
  expect_says(said("[2]", "[-4,4]"), "cannot lie in bytes -4 .. 4");
  expect_says(said("[2]", "[8,0]"), "cannot lie in bytes 8 .. 0");
  expect_says(said("[2]", "[0,18446744073709551615]"), "a whole number is expected");
  expect_says(said("[2]", "[0]"), "has 1 data_offsets");
  expect_says(said("[2]", "[0,4,8]"), "has 3 data_offsets");
  expect_says(said("[3]", "[0,8]"), "has 8 bytes (F32 [3] needs 12)");
  expect_says(said("[1]", "[0,8]"), "has 8 bytes (F32 [1] needs 4)");
  expect_says(said("[4294967296,4294967296]", "[0,8]"), "is too large");
  expect_says(said("[-2]", "[0,8]"), "an axis of length -2");
  expect_says(said("[1,1,1,1,1,1,2]", "[0,8]"), "has 7 axes");
  expect_says(said("[1]", "[4,8]"), "bytes 0 .. 4 of the data of '" + path_.string() + "' belong to no tensor");
  expect_says(said("[1]", "[0,4]"), "has 8 bytes of data (its tensors end at 4)");
  const auto two = [&](const std::string& first, const std::string& second) {
    return error_of_hand_made(R"({"x":{"dtype":"U8","shape":[4],"data_offsets":)" + first +
                                  R"(},"y":{"dtype":"U8","shape":[4],"data_offsets":)" + second + "}}",
                              "12345678");
  };
  EXPECT_EQ(two("[4,8]", "[0,4]").code(), ExitCode::done);
  expect_says(two("[0,4]", "[3,7]"), "tensor 'y' of '" + path_.string() + "' overlaps another one");
  expect_says(two("[0,4]", "[0,4]"), "overlaps another one");
}

TEST_F(Safetensors, RefusesDamagedHeaders) {
  expect_says(error_of_hand_made("{", ""), "'" + path_.string() + "' is not valid JSON");
  expect_says(error_of_hand_made("[]", ""), "an object is expected");
  expect_says(error_of_hand_made(R"({"x":1})", ""), "an object is expected");
  expect_says(error_of_hand_made(R"({"x":{"dtype":"F8_E4M3","shape":[],"data_offsets":[0,1]}})", "1"),
              "numbers of type 'F8_E4M3'");
  expect_says(error_of_hand_made(R"({"x":{"dtype":"F32","shape":[]}})", ""), "has no 'data_offsets'");
  const std::string x = R"("x":{"dtype":"U8","shape":[],"data_offsets":[0,1]})";
  expect_says(error_of_hand_made("{" + x + "," + x + "}", "1"), "an object has 'x' twice");
  expect_says(error_of_hand_made(R"({"__metadata__":{"a":1}})", ""), "a string is expected");
  expect_says(error_of_hand_made(std::string(100000, '['), ""), "nested more than 100 levels deep");
}

TEST_F(Safetensors, DoesNotBelieveTheLengthOfAHeader) {
  const auto said = [&](const std::string& bytes) {
    write_bytes(path_, bytes);
    return error_of([&] { open_safetensors(path_); });
  };
  expect_says(said(""), "is not a safetensors file (it has only 0 bytes)");
  expect_says(said("1234567"), "it has only 7 bytes");
  expect_says(said(with_length("{}", 3)), "its header of 3 bytes is cut short");
  expect_says(said(with_length("{}", 1 << 24)), "is cut short");
  expect_says(said(with_length("{}", std::uint64_t{1} << 40)), "a length of 1099511627776 bytes");
  expect_says(said(with_length("{}", ~std::uint64_t{0})), "a length of 18446744073709551615 bytes");
  std::filesystem::remove(path_);
  expect_says(error_of([&] { open_safetensors(path_); }), "No such file");
}

TEST_F(Safetensors, RefusesFilesThatAreCutShort) {
  write({sample_tensor("a", {5}, Dtype::f32), sample_tensor("b", {3}, Dtype::u8)});
  const std::string intact = bytes_of(path_);
  for (std::size_t length = 0; length < intact.size(); ++length) {
    write_bytes(path_, intact.substr(0, length));
    expect_says(error_of([&] { open_safetensors(path_); }), path_.string());
  }
  write_bytes(path_, intact + "x");
  expect_says(error_of([&] { open_safetensors(path_); }), "has 24 bytes of data (its tensors end at 23)");
}

TEST_F(Safetensors, NoticesThatTheFileBecameShorterWhileItWasRead) {
  const SampleTensor tensor = sample_tensor("a", {500}, Dtype::f32);
  write({tensor});
  const auto source = open_safetensors(path_);
  std::filesystem::resize_file(path_, std::filesystem::file_size(path_) - 100);
  expect_says(error_of([&] { read_whole(*source, tensor.info); }), "has changed while it was read");
}

TEST_F(Safetensors, WritesOnlyWhatWasAnnounced) {
  const SampleTensor x = sample_tensor("x", {4}, Dtype::f32);
  write({x});
  {
    const auto sink = create_safetensors(path_, {x.info});
    expect_says(error_of([&] { sink->finish(); }), "tensor 'x' of '" + path_.string() + "' is not complete");
    expect_says(error_of([&] { sink->write({x.bytes.data(), {5}, Dtype::f32}); }), "is given 5 elements");
  }
  expect_says(error_of([&] { create_safetensors(path_, {{"x", {1}, Dtype::c128}}); }), "c128");
  expect_says(error_of([&] { create_safetensors(path_, {{"__metadata__", {1}, Dtype::f32}}); }), "__metadata__");
  expect_says(error_of([&] { create_safetensors(path_, {{"\xFF", {1}, Dtype::f32}}); }), "not UTF-8");
  expect_says(error_of([&] { create_safetensors(path_, {x.info, x.info}); }), "is there twice");
  expect_says(error_of([&] { create_safetensors(folder_ / "no/folder", {x.info}); }), "No such file");
  EXPECT_EQ(files(), std::vector<std::string>{"model.safetensors"});
  expect_samples(*open_safetensors(path_), {x});  // still the old one
}

TEST_F(Safetensors, CutsLargeModelsIntoFilesWithAnIndex) {
  std::vector<SampleTensor> tensors;
  for (const char* name : {"a", "b", "c", "d", "e"}) tensors.push_back(sample_tensor(name, {25}, Dtype::f32));
  tensors.insert(tensors.begin() + 3, sample_tensor("large", {1000}, Dtype::f32));
  tensors.push_back(sample_tensor("nothing", {0}, Dtype::f32));
  write(tensors);  // one file: must not be taken for the new one
  write(tensors, 7, {{"format", "pt"}}, 250);
  EXPECT_EQ(files(), (std::vector<std::string>{"model-00001-of-00004.safetensors", "model-00002-of-00004.safetensors",
                                               "model-00003-of-00004.safetensors", "model-00004-of-00004.safetensors",
                                               "model.safetensors.index.json"}));
  const Json index = Json::parse(bytes_of(folder_ / "model.safetensors.index.json"), "index", ExitCode::checkpoint);
  EXPECT_EQ(index.at("metadata").at("total_size").as_integer(), 5 * 100 + 4000);
  EXPECT_EQ(index.at("weight_map").at("a").as_string(), "model-00001-of-00004.safetensors");
  EXPECT_EQ(index.at("weight_map").at("c").as_string(), "model-00002-of-00004.safetensors");
  EXPECT_EQ(index.at("weight_map").at("large").as_string(), "model-00003-of-00004.safetensors");
  EXPECT_EQ(index.at("weight_map").at("nothing").as_string(), "model-00004-of-00004.safetensors");
  EXPECT_EQ(bytes_of(folder_ / "model-00001-of-00004.safetensors").size() % 8, 0U);
  for (const char* name : {"model.safetensors.index.json", "model.safetensors"}) {
    expect_samples(*open_safetensors(folder_ / name), tensors);
    EXPECT_EQ(safetensors_metadata(folder_ / name).at("format"), "pt");
  }
  // Another number of files, and then one again.
  write(tensors, 1000, {}, 4500);
  expect_samples(*open_safetensors(path_), tensors);
  EXPECT_TRUE(std::filesystem::exists(path_));
}

TEST_F(Safetensors, LeavesNoIndexAndNoFilesOfAnUnfinishedModel) {
  const std::vector<SampleTensor> tensors{sample_tensor("a", {25}, Dtype::f32), sample_tensor("b", {25}, Dtype::f32)};
  {
    const auto sink = create_safetensors(path_, infos(tensors), {}, 100);
    write_samples(*sink, tensors, 7);
  }
  EXPECT_TRUE(files().empty());
}

TEST_F(Safetensors, RefusesAnIndexThatItsFilesContradict) {
  const std::vector<SampleTensor> tensors{sample_tensor("a", {25}, Dtype::f32), sample_tensor("b", {25}, Dtype::f32)};
  write(tensors, 100, {}, 100);
  const std::filesystem::path index = folder_ / "model.safetensors.index.json";
  const auto said = [&](const std::string& map) {
    write_bytes(index, R"({"weight_map": {)" + map + "}}");
    return error_of([&] { open_safetensors(index); });
  };
  const std::string a = R"("a": "model-00001-of-00002.safetensors")";
  const std::string b = R"("b": "model-00002-of-00002.safetensors")";
  EXPECT_EQ(said(a + "," + b).code(), ExitCode::done);
  expect_says(said(a + "," + b + R"(,"c": "model-00002-of-00002.safetensors")"),
              "model-00002-of-00002.safetensors' has no tensor 'c'");
  expect_says(said(a + R"(,"c": "model-00002-of-00002.safetensors")"), "has tensor 'b'");
  expect_says(said(a + R"(,"b": "model-00003-of-00002.safetensors")"), "No such file");
  expect_says(said(R"("b": "../model-00002-of-00002.safetensors")"), "plain names");
  expect_says(said(R"("b": "/etc/passwd")"), "plain names");
  expect_says(said(R"("b": "..")"), "plain names");
  expect_says(said(R"("b": 1)"), "a string is expected");
  write_bytes(index, "{}");
  expect_says(error_of([&] { open_safetensors(index); }), "has no 'weight_map'");
}

TEST_F(Safetensors, AnswersDamageOfAnyKindWithAnError) {
  write({sample_tensor("a", {5, 3}, Dtype::f32), sample_tensor("b", {4}, Dtype::u8)}, 100, {{"format", "pt"}});
  const std::string intact = bytes_of(path_);
  const std::size_t header = intact.size() - 64;
  std::mt19937 random(5);
  int refused = 0;
  for (int round = 0; round < 5000; ++round) {
    std::string damaged = intact;
    for (std::size_t changes = 1 + random() % 3; changes > 0; --changes) {
      const std::size_t at = random() % 4 == 0 ? random() % 8 : random() % header;
      damaged[at] = static_cast<char>(random() % 2 == 0 ? random() : R"({}[]":,-0159eE\)"[random() % 15]);
    }
    write_bytes(path_, damaged);
    const Error error = error_of([&] { testing::read_everything(*open_safetensors(path_), 1000); });
    if (error.code() != ExitCode::done) expect_says(error, path_.string());
    refused += error.code() != ExitCode::done ? 1 : 0;
  }
  EXPECT_GT(refused, 2500);
}

}  // namespace
}  // namespace vitrail
