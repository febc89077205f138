#include <gtest/gtest.h>

#include "apps/eval_routing.hpp"

namespace vitrail {
namespace {

class RoutingOptionsTest : public ::testing::Test {
 protected:
  RoutingOptionsTest() {
    config_.model.blocks = 8;
    config_.model.moe_blocks = {1, 3, 7};
  }
  /// "" or the Error.
  std::string said(std::vector<const char*> words) {
    Options options("vitrail-test", "");
    RunConfig config = config_;
    routing_ = {};
    add_routing_options(options, config, routing_);
    words.insert(words.begin(), "vitrail-test");
    try {
      (void)options.parse(static_cast<int>(words.size()), words.data());
      options.apply();
      resolve(routing_, options, config);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::usage);
      return error.what();
    }
    return "";
  }
  RunConfig config_;
  RoutingOptions routing_;
};

TEST_F(RoutingOptionsTest, ModelsWithoutChoicesAreRefused) {
  config_.model.router.kind = RouterKind::soft;
  EXPECT_EQ(said({}), "");
  const std::string why = " of a Soft MoE (its router mixes tokens and chooses nothing)";
  EXPECT_TRUE(said({"--dump-routing", "a.h5"}).starts_with("--dump-routing" + why));
  EXPECT_TRUE(said({"--random-blocks", "3"}).starts_with("--random-blocks" + why));
  EXPECT_TRUE(said({"--random-each"}).starts_with("--random-each" + why));
  config_.model.router.kind = RouterKind::experts_choice;
  EXPECT_EQ(said({"--dump-routing", "a.h5"}), "");
  config_.model.moe_blocks.clear();
  EXPECT_TRUE(said({"--random-blocks", "3"}).starts_with("--random-blocks of a dense model"));
  EXPECT_TRUE(said({"--dump-routing", "a.h5"}).starts_with("--dump-routing of a dense model"));
}

TEST_F(RoutingOptionsTest, OptionsThatGoTogetherAreGivenTogether) {
  EXPECT_TRUE(said({"--dump-images", "4"}).starts_with("--dump-images without --dump-routing"));
  EXPECT_TRUE(said({"--random-csv", "a.csv"}).starts_with("--random-csv without --random-each"));
  EXPECT_TRUE(said({"--random-each", "--random-blocks", "3"}).starts_with("--random-each and --random-blocks"));
  EXPECT_TRUE(said({"--dump-routing", "a.h5", "--dump-images", "0"}).starts_with("--dump-images 0"));
  EXPECT_TRUE(said({"--dump-routing", "no/folder/a.h5"}).starts_with("'no/folder/a.h5' cannot be written"));
}

TEST_F(RoutingOptionsTest, TheTableIsNamedAfterTheRun) {
  config_.run_dir = "runs/a";
  EXPECT_EQ(said({"--random-each"}), "");
  EXPECT_EQ(routing_.random_csv, "runs/a/random.csv");
}

}  // namespace
}  // namespace vitrail
