#include <gtest/gtest.h>

#include "convert/msgpack.hpp"
#include "tests/errors.hpp"

namespace vitrail {
namespace {

using namespace std::string_literals;
using testing::error_of;
using Kind = MsgpackValue::Kind;

MsgpackValue parse(const std::string& bytes) { return parse_msgpack(bytes, "'a file'"); }

std::string problem(const std::string& bytes) {
  const Error error = error_of([&] { parse(bytes); });
  EXPECT_EQ(error.code(), ExitCode::checkpoint);
  return error.what();
}

TEST(Msgpack, ReadsEveryKindOfValue) {
  // {"a": [nil, true, 7, -3, 300, 1.5f, 0.5], "b": bin "xy", 5: ext 1 "z"}
  const std::string bytes =
      "\x83\xa1"
      "a\x97\xc0\xc3\x07\xfd\xcd\x01\x2c\xca\x3f\xc0\x00\x00\xcb\x3f\xe0\x00\x00\x00\x00\x00\x00\xa1"
      "b\xc4\x02xy\x05\xd4\x01z"s;
  const MsgpackValue root = parse(bytes);
  ASSERT_EQ(root.items.size(), 6U);
  const MsgpackValue& list = *root.find("a");
  ASSERT_EQ(list.items.size(), 7U);
  EXPECT_EQ(list.items[0].kind, Kind::nil);
  EXPECT_EQ(list.items[1].kind, Kind::boolean);
  EXPECT_EQ(list.items[1].integer, 1);
  EXPECT_EQ(list.items[2].integer, 7);
  EXPECT_EQ(list.items[3].integer, -3);
  EXPECT_EQ(list.items[4].integer, 300);
  EXPECT_EQ(list.items[5].real, 1.5);
  EXPECT_EQ(list.items[6].real, 0.5);
  EXPECT_EQ(root.find("b")->kind, Kind::binary);
  EXPECT_EQ(root.find("b")->bytes, "xy");
  EXPECT_EQ(root.items[5].kind, Kind::extension);
  EXPECT_EQ(root.items[5].extension_type, 1);
  EXPECT_EQ(root.items[5].bytes, "z");
  EXPECT_EQ(root.find("c"), nullptr);
  EXPECT_EQ(list.find("a"), nullptr);
}

TEST(Msgpack, PointsToLongDataInsteadOfCopyingIt) {
  MsgpackWriter out;
  out.binary(std::string(100000, 'x'));
  const std::string& bytes = out.bytes();
  const MsgpackValue value = parse(bytes);
  EXPECT_EQ(value.bytes.data(), bytes.data() + 5);
  EXPECT_EQ(value.bytes.size(), 100000U);
}

TEST(Msgpack, WritesTheShortestForm) {
  MsgpackWriter out;
  out.map(2);
  out.string("k");
  out.integer(200);
  out.string(std::string(40, 's'));
  out.array(0);
  EXPECT_EQ(out.take(), "\x82\xa1k\xcc\xc8\xd9\x28"s + std::string(40, 's') + "\x90");
  out.nil();
  out.boolean(false);
  out.integer(-1);
  out.extension(6, "\x90");
  out.extension(1, "abc");
  out.binary_header(70000);
  out.extension_header(1, 70000);
  EXPECT_EQ(out.bytes(),
            "\xc0\xc2\xff\xd4\x06\x90\xc7\x03\x01"
            "abc\xc6\x00\x01\x11\x70\xc9\x00\x01\x11\x70\x01"s);
}

TEST(Msgpack, RefusesEveryTruncation) {
  const std::string bytes =
      "\x82\xa1"
      "a\x92\xcd\x01\x2c\xc7\x03\x01xyz\xa1"
      "b\xcb\x3f\xe0\x00\x00\x00\x00\x00\x00"s;
  parse(bytes);
  for (std::size_t length = 0; length < bytes.size(); ++length) {
    EXPECT_EQ(problem(bytes.substr(0, length)).find("'a file' has "), 0U) << length;
  }
}

TEST(Msgpack, RefusesBytesBehindTheValue) {
  EXPECT_NE(problem("\x01\x02").find("1 bytes too many"), std::string::npos);
}

TEST(Msgpack, RefusesAByteThatBeginsNothing) {
  EXPECT_NE(problem("\x92\x01\xc1").find("no whole MessagePack value"), std::string::npos);
}

TEST(Msgpack, RefusesDepthsThatWouldFillMemory) {
  parse(std::string(60, '\x91') + '\x01');
  EXPECT_NE(problem(std::string(100000, '\x91') + '\x01').find("more than 64 levels"), std::string::npos);
}

TEST(Msgpack, RefusesListsLongerThanTheFile) {
  EXPECT_NE(problem("\xdd\xff\xff\xff\xff\x01"s).find("a list of 4294967295 items"), std::string::npos);
  EXPECT_NE(problem("\xdf\xff\xff\xff\xff\x01"s).find("a list of 4294967295 items"), std::string::npos);
}

TEST(Msgpack, RefusesLengthsLongerThanTheFile) {
  for (const std::string& head :
       {"\xc6\xff\xff\xff\xff"s, "\xdb\xff\xff\xff\xff"s, "\xc9\xff\xff\xff\xfe\x01"s, "\xc9\xff\xff\xff\xff\x01"s}) {
    EXPECT_NE(problem(head + "abc").find("no whole MessagePack value"), std::string::npos);
  }
}

TEST(Msgpack, RefusesMoreValuesThanACheckpointHas) {
  const std::int64_t many = (std::int64_t{1} << 21) + 10;
  MsgpackWriter out;
  out.array(many);
  EXPECT_NE(problem(out.take() + std::string(static_cast<std::size_t>(many), '\xc0')).find("more than 2097152 values"),
            std::string::npos);
}

TEST(Msgpack, RefusesIntegersBeyond63Bits) {
  EXPECT_EQ(parse("\xcf\x7f\xff\xff\xff\xff\xff\xff\xff"s).integer, std::numeric_limits<std::int64_t>::max());
  EXPECT_NE(problem("\xcf\x80\x00\x00\x00\x00\x00\x00\x00"s).find("beyond 63 bits"), std::string::npos);
}

TEST(Msgpack, TellsOfProgressInLongFiles) {
  MsgpackWriter out;
  out.array(6);
  for (int i = 0; i < 6; ++i) out.binary(std::string(std::size_t{10} << 20, 'x'));
  int calls = 0;
  parse_msgpack(out.bytes(), "x", [&] { ++calls; });
  EXPECT_EQ(calls, 2);
}

}  // namespace
}  // namespace vitrail
