#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "base/error.hpp"

namespace vitrail {
namespace {

TEST(Error, SaysWhatWhyAndWhatToTry) {
  const int ranks = 3;
  try {
    VITRAIL_EXPECT(ranks % 2 == 0, ExitCode::usage, text("ranks is ", ranks), "it must be even", "Use 2 or 4");
    FAIL();
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "ranks is 3 (it must be even). Use 2 or 4");
    EXPECT_EQ(error.code(), ExitCode::usage);
    EXPECT_EQ(error.fault().why, "it must be even");
    EXPECT_NE(std::string(error.where().file_name()).find("test_error.cpp"), std::string::npos);
  }
}

TEST(Error, LeavesOutThePartsThatAreEmpty) {
  EXPECT_STREQ(Error(ExitCode::data, {"a", "", ""}).what(), "a");
  EXPECT_STREQ(Error(ExitCode::data, {"a", "b", ""}).what(), "a (b)");
  EXPECT_STREQ(Error(ExitCode::data, {"a", "", "c"}).what(), "a. c");
}

TEST(Error, NamesThePartsOfTheWorkFromTheInsideOut) {
  const Error error(ExitCode::other, {"a", "b", "c"});
  EXPECT_EQ(error.parts(), "");
  const Error placed = error.in("layernorm_forward, layer 3").in("step 12");
  EXPECT_STREQ(placed.what(), "a in layernorm_forward, layer 3, step 12 (b). c");
  EXPECT_EQ(placed.parts(), "layernorm_forward, layer 3, step 12");
  EXPECT_EQ(placed.code(), ExitCode::other);
  EXPECT_EQ(placed.fault().problem, "a");
  EXPECT_EQ(placed.where().line(), error.where().line());
}

TEST(Error, ThatIsNoticedLateSaysSo) {
  const Error error(ExitCode::other, {"a", "b", "", true});
  EXPECT_STREQ(error.in("the wait for the device").what(), "a, noticed in the wait for the device (b)");
}

TEST(EditDistance, CountsInsertionsDeletionsAndSubstitutions) {
  EXPECT_EQ(edit_distance("", ""), 0);
  EXPECT_EQ(edit_distance("", "abc"), 3);
  EXPECT_EQ(edit_distance("kitten", "sitting"), 3);
  EXPECT_EQ(edit_distance("batch", "btach"), 2);
}

TEST(DidYouMean, NamesTheNearestWordOrNothing) {
  const std::vector<std::string> known{"batch", "seed", "threads"};
  EXPECT_EQ(did_you_mean("thread", known), "Did you mean 'threads'?");
  EXPECT_EQ(did_you_mean("bacth", known), "Did you mean 'batch'?");
  EXPECT_EQ(did_you_mean("zzzzzz", known), "");
}

}  // namespace
}  // namespace vitrail
