#include <gtest/gtest.h>

#include "tests/convert/flax_samples.hpp"
#include "tests/errors.hpp"

namespace vitrail {
namespace {

using testing::error_of;
using testing::FlaxFolder;
using testing::put;

void pack_array(MsgpackWriter& out, const std::string& elements) {
  MsgpackWriter inner;
  inner.array(3);
  inner.array(2);
  inner.integer(2);
  inner.integer(std::ssize(elements) / 2);
  inner.string("uint8");
  inner.binary(elements);
  out.extension(1, inner.bytes());
}

std::string flat_array(const std::string& elements) {
  return pack_flat_array_header(stored_type(Dtype::u8), std::ssize(elements)) + elements;
}

TEST(PlainFlaxFile, IsReadWithItsNestedTensors) {
  MsgpackWriter out;
  out.map(5);
  out.string("params");
  out.map(1);
  out.string("kernel");
  pack_array(out, "abcdef");
  out.string("step");
  out.integer(-7);
  out.string("flag");
  out.boolean(true);
  out.string("none");
  out.nil();
  out.string("list");
  out.array(2);
  out.integer(1);
  pack_array(out, "xy");
  const FlaxFolder folder;
  put(folder / "state.msgpack", out.bytes());
  const auto source = open_flax(folder / "state.msgpack");
  std::vector<std::string> found;
  for (const TensorInfo& info : source->tensors()) {
    found.push_back(text(info.name, " ", name_of(info.dtype), " ", info.shape.str()));
  }
  EXPECT_EQ(found, (std::vector<std::string>{"params/kernel u8 [2, 3]", "step i64 []", "flag u8 []", "list/0 i64 []",
                                             "list/1 u8 [2, 1]"}));
  EXPECT_EQ(testing::read_range(*source, source->tensors()[0], 1, 4), "bcde");
  EXPECT_EQ(testing::read_whole(*source, source->tensors()[1]), "\xf9\xff\xff\xff\xff\xff\xff\xff");
  EXPECT_EQ(testing::read_whole(*source, source->tensors()[2]), "\x01");
  EXPECT_EQ(testing::read_whole(*source, source->tensors()[4]), "xy");
}

/// {"a": array of [2, 3] in chunks "abcd" and "ef"}, with other lengths if one likes.
std::string chunked(std::int64_t rows, const std::string& second_key) {
  MsgpackWriter out;
  out.map(1);
  out.string("a");
  out.map(3);
  out.string("__msgpack_chunked_array__");
  out.boolean(true);
  out.string("shape");
  out.map(2);
  out.string("0");
  out.integer(rows);
  out.string("1");
  out.integer(3);
  out.string("chunks");
  out.map(2);
  out.string("0");
  const std::string begin = out.take() + flat_array("abcd");
  out.string(second_key);
  return begin + out.take() + flat_array("ef");
}

TEST(PlainFlaxFile, JoinsArraysInChunks) {
  const FlaxFolder folder;
  put(folder / "big", chunked(2, "1"));
  const auto source = open_flax(folder / "big");
  ASSERT_EQ(source->tensors().size(), 1U);
  EXPECT_EQ(source->tensors()[0].shape, (Shape{2, 3}));
  EXPECT_EQ(testing::read_whole(*source, source->tensors()[0]), "abcdef");
  EXPECT_EQ(testing::read_range(*source, source->tensors()[0], 3, 2), "de");
}

TEST(PlainFlaxFile, IsRefusedWhenItIsDamaged) {
  const FlaxFolder folder;
  const auto problem = [&](const std::string& bytes) {
    put(folder / "x", bytes);
    const Error error = error_of([&] { open_flax(folder / "x"); });
    EXPECT_EQ(error.code(), ExitCode::checkpoint);
    return std::string(error.what());
  };
  EXPECT_NE(problem(chunked(3, "1")).find("has 6 elements in its chunks"), std::string::npos);
  EXPECT_NE(problem(chunked(2, "2")).find("'chunks' lacks '1'"), std::string::npos);
  EXPECT_NE(problem("").find("no whole MessagePack value"), std::string::npos);
  EXPECT_NE(problem("\x07").find("not a map"), std::string::npos);
  EXPECT_NE(problem("\x81\xa1x\xa1y").find("'x' is a string"), std::string::npos);
  EXPECT_NE(problem("\x81\xa1x\xc7\x02\x02yz").find("an extension instead of an array"), std::string::npos);
  EXPECT_NE(problem("\x82\xa1x\x01\xa1x\x02").find("twice"), std::string::npos);
  const std::string whole = chunked(2, "1");
  for (std::size_t length = 1; length < whole.size(); ++length) problem(whole.substr(0, length));
}

TEST(PlainFlaxFile, MustBeAFile) {
  const FlaxFolder folder;
  std::filesystem::create_directory(folder / "folder");
  EXPECT_EQ(error_of([&] { open_flax(folder / "folder"); }).code(), ExitCode::checkpoint);
}

}  // namespace
}  // namespace vitrail
