#include <gtest/gtest.h>

#include "apps/csv.hpp"

namespace vitrail {
namespace {

TEST(Csv, HasALineOfNamesAndALinePerRow) {
  Json rows = Json::array();
  rows.push_back(Json::object().set("order", "vanilla").set("slots", 4).set("loss", 0.1));
  rows.push_back(Json::object().set("order", Json()).set("slots", 8).set("loss", 1.0 / 3));
  EXPECT_EQ(to_csv(rows), "order,slots,loss\nvanilla,4,0.1\n,8,0.3333333333333333\n");
  EXPECT_EQ(to_csv(Json::array()), "");
}

TEST(Csv, QuotesWhatWouldBreakALine) {
  Json rows = Json::array();
  rows.push_back(Json::object().set("a,b", "say \"no\"").set("c", "two\nlines").set("d", "plain words"));
  EXPECT_EQ(to_csv(rows), "\"a,b\",c,d\n\"say \"\"no\"\"\",\"two\nlines\",plain words\n");
}

}  // namespace
}  // namespace vitrail
