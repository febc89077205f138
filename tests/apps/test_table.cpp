#include <sstream>

#include <gtest/gtest.h>

#include "apps/table.hpp"

namespace vitrail {
namespace {

TEST(Table, MakesColumnsAsWideAsTheirWidestWord) {
  Table table({{"name"}, {"bytes", true}, {"state"}});
  table.add({"a", "12345678", "complete"});
  table.add({"longer than its title", "1", ""});
  std::ostringstream out;
  table.print(out);
  EXPECT_EQ(out.str(),
            "name                      bytes  state\n"
            "a                      12345678  complete\n"
            "longer than its title         1\n");
}

TEST(Table, PrintsItsTitlesWithoutRows) {
  std::ostringstream out;
  Table({{"a"}, {"b", true}}).print(out);
  EXPECT_EQ(out.str(), "a  b\n");
}

}  // namespace
}  // namespace vitrail
