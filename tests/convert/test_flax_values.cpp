#include <gtest/gtest.h>

#include "convert/flax_values.hpp"
#include "tests/errors.hpp"

namespace vitrail {
namespace {

using namespace std::string_literals;
using testing::error_of;

std::string array_bytes(const std::string& shape, const std::string& type, const std::string& elements) {
  MsgpackWriter out;
  out.string(type);
  out.binary(elements);
  return "\x93" + shape + out.take();
}

FlaxArray parse(const std::string& packed, MsgpackValue& value) {
  value.kind = MsgpackValue::Kind::extension;
  value.extension_type = 1;
  value.bytes = packed;
  return parse_flax_array(value, "'x'");
}

std::string problem(const std::string& packed) {
  const Error error = error_of([&] {
    MsgpackValue value;
    parse(packed, value);
  });
  EXPECT_EQ(error.code(), ExitCode::checkpoint);
  EXPECT_EQ(std::string(error.what()).substr(0, 3), "'x'");
  return error.what();
}

TEST(FlaxValues, ReadArraysOfEveryType) {
  const std::vector<std::pair<std::string, Dtype>> types{
      {"float32", Dtype::f32}, {"float64", Dtype::f64}, {"bfloat16", Dtype::bf16}, {"int32", Dtype::i32},
      {"int64", Dtype::i64},   {"uint8", Dtype::u8},    {"uint32", Dtype::i64},    {"bool", Dtype::u8}};
  for (const auto& [name, dtype] : types) {
    const StoredType type = stored_type(name, "x");
    EXPECT_EQ(type.dtype, dtype);
    MsgpackValue value;
    const std::string packed =
        array_bytes("\x92\x02\x03", name, std::string(static_cast<std::size_t>(6 * type.bytes), 'e'));
    const FlaxArray array = parse(packed, value);
    EXPECT_EQ(array.shape, (Shape{2, 3}));
    EXPECT_EQ(array.type.name, name);
    EXPECT_EQ(array.elements, std::string(static_cast<std::size_t>(6 * type.bytes), 'e'));
  }
}

TEST(FlaxValues, WriteTheNamesThatTheyRead) {
  for (const Dtype dtype : {Dtype::f32, Dtype::f64, Dtype::bf16, Dtype::i32, Dtype::i64, Dtype::u8}) {
    EXPECT_EQ(stored_type(stored_type(dtype).name, "x").dtype, dtype);
    EXPECT_EQ(stored_type(dtype).bytes, size_of(dtype));
  }
}

TEST(FlaxValues, PackArraysAsTheOriginal) {
  // Of tests/golden/checkpoint_train_state: an int32 scalar, flat.
  EXPECT_EQ(pack_flat_array_header(stored_type(Dtype::i32), 1), "\xc7\x0f\x01\x93\x91\x01\xa5int32\xc4\x04"s);
  EXPECT_EQ(pack_slice_nd({}), "\x90");
  EXPECT_EQ(pack_slice_nd({{0, 5}, {2, 300}}), "\x92\xc4\x04\x93\x00\x05\xc0\xc4\x06\x93\x02\xcd\x01\x2c\xc0"s);
}

TEST(FlaxValues, ReadSlicesWithoutBounds) {
  // (None, None, None) and (1, None, 1).
  const std::string packed = "\x92\xc4\x04\x93\xc0\xc0\xc0\xc4\x04\x93\x01\xc0\x01"s;
  EXPECT_EQ(parse_slice_nd(packed, {4, 6}, "x"), (Region{{0, 4}, {1, 6}}));
}

TEST(FlaxValues, RefuseDamagedArrays) {
  EXPECT_NE(problem(array_bytes("\x91\x02", "float32", "1234567")).find("7 bytes of elements"), std::string::npos);
  EXPECT_NE(problem(array_bytes("\x91\x02", "float31", "12345678")).find("'float31'"), std::string::npos);
  EXPECT_NE(problem(array_bytes("\x91\x02", "a\x01", "12345678")).find("'?'"), std::string::npos);
  EXPECT_NE(problem(array_bytes("\x91\xff", "float32", "")).find("length -1"), std::string::npos);
  EXPECT_NE(problem(array_bytes("\x97\x01\x01\x01\x01\x01\x01\x01", "uint8", "1")).find("7 axes"), std::string::npos);
  EXPECT_NE(problem(array_bytes("\x91\xc0", "uint8", "1")).find("nil instead of"), std::string::npos);
  EXPECT_NE(problem("\x92\x91\x01\xa1x"s).find("an array of 2 values"), std::string::npos);
  EXPECT_NE(problem("\xa1x"s).find("a string of 0 values"), std::string::npos);
  EXPECT_NE(problem("").find("no whole MessagePack value"), std::string::npos);
  // Products that overflow, also behind an axis of length 0.
  const std::string huge = "\xcf\x00\x00\xff\xff\xff\xff\xff\xff"s;
  EXPECT_NE(problem(array_bytes("\x93" + huge + huge + huge, "uint8", "")).find("an axis of length"),
            std::string::npos);
  EXPECT_NE(problem(array_bytes("\x93" + std::string(1, '\0') + huge + huge, "uint8", "")).find("an axis of length"),
            std::string::npos);
}

TEST(FlaxValues, RefuseSlicesOutsideTheirTensor) {
  const auto refused = [](const std::string& packed) {
    return error_of([&] { parse_slice_nd(packed, {4}, "x"); }).code() == ExitCode::checkpoint;
  };
  EXPECT_FALSE(refused("\x91\xc4\x04\x93\x00\x04\xc0"s));
  EXPECT_TRUE(refused("\x91\xc4\x04\x93\x00\x05\xc0"s));
  EXPECT_TRUE(refused("\x91\xc4\x04\x93\xff\x04\xc0"s));
  EXPECT_TRUE(refused("\x91\xc4\x04\x93\x03\x02\xc0"s));
  EXPECT_TRUE(refused("\x91\xc4\x04\x93\x00\x04\x02"s));  // a step
  EXPECT_TRUE(refused("\x92\xc4\x04\x93\x00\x04\xc0\xc4\x04\x93\x00\x04\xc0"s));
  EXPECT_TRUE(refused("\x91\x93\x00\x04\xc0"s));
  EXPECT_TRUE(refused("\x90"s));
}

}  // namespace
}  // namespace vitrail
