#include <cmath>
#include <limits>

#include <gtest/gtest.h>

#include "base/json.hpp"

namespace vitrail {
namespace {

template <class Action>
std::string error_of(ExitCode code, Action action) {
  try {
    action();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code);
    return error.what();
  }
  ADD_FAILURE() << "no Error was thrown";
  return "";
}

TEST(Json, ReadsEveryKindOfValue) {
  const Json json = Json::parse(R"({"a": [1, -2.5, "x", true, null, {}], "b": {"c": 9007199254740993}, "d": 1e3})",
                                "test", ExitCode::data);
  const std::vector<Json>& items = json.at("a").items();
  EXPECT_EQ(items.at(0).as_integer(), 1);
  EXPECT_EQ(items.at(0).as_real(), 1.0);
  EXPECT_EQ(items.at(1).as_real(), -2.5);
  EXPECT_EQ(items.at(2).as_string(), "x");
  EXPECT_TRUE(items.at(3).as_bool());
  EXPECT_TRUE(items.at(4).is_null());
  EXPECT_TRUE(items.at(5).is_object());
  EXPECT_EQ(json.at("b").at("c").as_integer(), 9007199254740993);  // not a double's value
  EXPECT_FALSE(json.at("d").is_integer());
  EXPECT_TRUE(json.has("b"));
  EXPECT_EQ(json.find("z"), nullptr);
}

TEST(Json, WritesWhatItReadsBackBitForBit) {
  Json json;
  json.set("z", 0.1).set("a", std::numeric_limits<double>::denorm_min()).set("text", "quote \" \xC3\xA9 \n");
  json.set("long", std::numeric_limits<std::int64_t>::min()).set("yes", true).set("none", Json());
  json.set("list", Json::array().push_back(1).push_back(1.0 / 3.0)).set("empty", Json::object());
  EXPECT_EQ(Json::parse(json.dump(), "test", ExitCode::data), json);
  EXPECT_EQ(Json::parse(json.dump(2), "test", ExitCode::data), json);
  EXPECT_EQ(json.dump().substr(0, 9), R"({"z":0.1,)");  // order of setting, one line
  EXPECT_EQ(json.set("z", 2).dump().substr(0, 7), R"({"z":2,)");
}

TEST(Json, WritesNumbersThatJsonDoesNotHaveAsNull) {
  EXPECT_EQ(Json::array().push_back(std::nan("")).push_back(HUGE_VAL).dump(), "[null,null]");
}

TEST(Json, SaysWhereAValueOfTheWrongKindStands) {
  const Json json = Json::parse(R"({"shards": [{"images": 1}, {"images": "many"}]})", "manifest.json", ExitCode::data);
  const Json& wrong = json.at("shards").items().at(1);
  EXPECT_EQ(error_of(ExitCode::data, [&] { return wrong.at("images").as_integer(); }),
            "'manifest.json' at /shards/1/images: \"many\" (a whole number is expected)");
  EXPECT_EQ(error_of(ExitCode::data, [&] { return wrong.at("labels"); }),
            "'manifest.json' at /shards/1 has no 'labels' (it is needed)");
  EXPECT_EQ(error_of(ExitCode::data, [&] { return json.at("shards").as_real(); }).substr(0, 38),
            "'manifest.json' at /shards: [{\"images\"");
  EXPECT_EQ(error_of(ExitCode::data, [&] { return json.items(); }).substr(0, 16), "'manifest.json':");
  EXPECT_EQ(error_of(ExitCode::data, [&] { return wrong.at("images").at("x"); }).substr(0, 16), "'manifest.json' ");
}

TEST(Json, RefusesDamagedDocuments) {
  for (const char* damaged : {"", "{", "{\"a\": }", "{\"a\": 1} x", "[1,]", "\"\xFF\"", "nan"}) {
    const std::string said =
        error_of(ExitCode::checkpoint, [&] { return Json::parse(damaged, "run.json", ExitCode::checkpoint); });
    EXPECT_EQ(said.substr(0, 28), "'run.json' is not valid JSON") << damaged;
    EXPECT_NE(said.find("line 1"), std::string::npos) << said;
  }
}

TEST(Json, RefusesANameThatStandsTwice) {
  EXPECT_EQ(
      error_of(ExitCode::data,
               [] { return Json::parse(R"({"a": 1, "b": {"c": 1, "d": 2, "c": 3}})", "x.json", ExitCode::data); }),
      "'x.json' is not valid JSON (an object has 'c' twice)");
}

TEST(Json, RefusesWhatIsNestedTooDeeply) {
  const auto nested = [](std::size_t levels) { return std::string(levels, '[') + std::string(levels, ']'); };
  EXPECT_TRUE(Json::parse(nested(100), "x.json", ExitCode::data).is_array());
  EXPECT_EQ(error_of(ExitCode::data, [&] { return Json::parse(nested(101), "x.json", ExitCode::data); }),
            "'x.json' is not valid JSON (it is nested more than 100 levels deep)");
  error_of(ExitCode::data, [&] { return Json::parse(std::string(1000000, '['), "x.json", ExitCode::data); });
}

TEST(Json, ReadsObjectsOfManyMembersInTimeOfTheirLength) {
  std::string many = "{";
  for (int i = 0; i < 200000; ++i) many += text(i == 0 ? "" : ",", "\"name", i, "\":", i);
  const Json json = Json::parse(many + "}", "x.json", ExitCode::data);  // each compared with all: minutes
  EXPECT_EQ(json.members().at(199999).value.as_integer(), 199999);
}

}  // namespace
}  // namespace vitrail
