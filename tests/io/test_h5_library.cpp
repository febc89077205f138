#include <regex>

#include <gtest/gtest.h>

#include "io/h5_library.hpp"

namespace vitrail::h5 {
namespace {

TEST(H5Library, TellsItsVersion) {
  EXPECT_TRUE(std::regex_match(library_version(), std::regex("\\d+\\.\\d+\\.\\d+"))) << library_version();
}

TEST(H5Library, IsTheOneThatThisTestWasBuiltWith) { EXPECT_TRUE(library_is_the_one_of_the_build()); }

}  // namespace
}  // namespace vitrail::h5
