#include <gtest/gtest.h>

#include "convert/flax_index.hpp"
#include "convert/flax_plan.hpp"
#include "tests/convert/flax_samples.hpp"
#include "tests/errors.hpp"

namespace vitrail {
namespace {

using Strings = std::vector<std::string>;
using testing::error_of;
using testing::golden;

const std::string kWhere = "'x.index'";

FlaxIndex parse(const std::string& bytes) { return parse_flax_index(parse_msgpack(bytes, kWhere), kWhere); }

std::string problem(const std::string& bytes) {
  const Error error = error_of([&] { parse(bytes); });
  EXPECT_EQ(error.code(), ExitCode::checkpoint);
  return error.what();
}

/// The bytes of an index with these leaves: {shard_count, index: {name: leaf}, version}.
std::string index_of(const std::vector<FlaxLeaf>& leaves, std::int64_t shards, const std::string& version) {
  MsgpackWriter out;
  out.map(version.empty() ? 2 : 3);
  out.string("shard_count");
  out.integer(shards);
  out.string("index");
  out.map(std::ssize(leaves));
  for (const FlaxLeaf& leaf : leaves) {
    out.string(leaf.name);
    out.extension(8, pack_index_info(leaf));
  }
  if (!version.empty()) {
    out.string("version");
    out.string(version);
  }
  return out.take();
}

FlaxLeaf vector_leaf(const std::vector<Region>& slices, const std::vector<std::int64_t>& shards) {
  return {"x", {5}, stored_type(Dtype::f32), slices, shards};
}

TEST(FlaxIndex, OfAVectorAndAScalarIsThatOfTheOriginal) {
  // [V-MoE tests]: {x (5,) f32, y () i32}: leaf 0 is x, leaf 1 is y; {x [..], y ()} in one file.
  const FlaxPlan plan = plan_flax({{"y", {}, Dtype::i32}, {"x", {5}, Dtype::f32}}, {});
  const std::string bytes = pack_flax_index(plan.index);
  for (const std::string& version : {std::string(kFlaxVersion), std::string()}) {
    const FlaxIndex index = parse(index_of(plan.index.leaves, 1, version));
    EXPECT_EQ(index.shards, 1);
    ASSERT_EQ(index.leaves.size(), 2U);
    EXPECT_EQ(index.leaves[0].name, "x");
    EXPECT_EQ(index.leaves[0].shape, (Shape{5}));
    EXPECT_EQ(index.leaves[0].type.dtype, Dtype::f32);
    EXPECT_EQ(index.leaves[0].slices, (std::vector<Region>{{{0, 5}}}));
    EXPECT_EQ(index.leaves[1].name, "y");
    EXPECT_EQ(index.leaves[1].shape, Shape());
    EXPECT_EQ(index.leaves[1].type.dtype, Dtype::i32);
    EXPECT_EQ(index.leaves[1].slices, (std::vector<Region>{{}}));
  }
  EXPECT_EQ(bytes, index_of(plan.index.leaves, 1, std::string(kFlaxVersion)));
}

TEST(FlaxIndex, IsPackedAsTheOfficialWriterDoes) {
  for (const char* name : {"vmoe_params", "vmoe_sharded", "train_state"}) {
    const std::string official = testing::content_of(golden(text("checkpoint_", name, "/ckpt_7.index")));
    EXPECT_EQ(pack_flax_index(parse(official)), official) << name;
  }
}

TEST(FlaxIndex, NumbersBlockTenBeforeBlockTwo) {
  const FlaxIndex index = parse(testing::content_of(golden("checkpoint_vmoe_params/ckpt_7.index")));
  const auto number = [&](const std::string& name) {
    return std::find_if(index.leaves.begin(), index.leaves.end(), [&](const auto& leaf) { return leaf.name == name; }) -
           index.leaves.begin();
  };
  ASSERT_LT(number("Encoder/encoderblock_2/LayerNorm_0/bias"), std::ssize(index.leaves));
  EXPECT_LT(number("Encoder/encoderblock_10/LayerNorm_0/bias"), number("Encoder/encoderblock_2/LayerNorm_0/bias"));
}

TEST(FlaxIndex, ComparesNamesKeyByKey) {
  EXPECT_TRUE(leaf_before("a", "b"));
  EXPECT_TRUE(leaf_before("a/z", "a-b/a"));  // 'a' before 'a-b', although '-' stands before '/'
  EXPECT_FALSE(leaf_before("a-b/a", "a/z"));
  EXPECT_TRUE(leaf_before("a", "a/b"));
  EXPECT_FALSE(leaf_before("a/b", "a/b"));
}

TEST(FlaxIndex, RefusesNamesThatArePartsOfOthers) {
  const FlaxLeaf leaf = vector_leaf({{{0, 5}}}, {0});
  for (const auto& [first, second] : {std::pair{"a", "a"}, std::pair{"a", "a/b"}, std::pair{"a/b", "a"}}) {
    FlaxIndex index{1, {leaf, leaf}};
    index.leaves[0].name = first;
    index.leaves[1].name = second;
    EXPECT_EQ(error_of([&] { pack_flax_index(index); }).code(), ExitCode::checkpoint) << first << " " << second;
  }
}

TEST(FlaxIndex, RefusesUnknownVersions) {
  EXPECT_NE(problem(index_of({}, 1, "20300101")).find("version '20300101'"), std::string::npos);
}

TEST(FlaxIndex, RefusesSlicesThatDoNotMakeUpTheirTensor) {
  const auto refused = [&](const std::vector<Region>& slices) {
    const std::vector<std::int64_t> shards(slices.size(), 0);
    return problem(index_of({vector_leaf(slices, shards)}, 1, "")).find("tensor 'x'") != std::string::npos;
  };
  EXPECT_TRUE(refused({}));
  EXPECT_TRUE(refused({{{0, 4}}}));
  EXPECT_TRUE(refused({{{0, 3}}, {{2, 5}}}));
  EXPECT_TRUE(refused({{{0, 3}}, {{2, 4}}}));  // as many elements as the tensor, one of them twice
  EXPECT_TRUE(refused({{{0, 3}}, {{3, 6}}}));
  EXPECT_TRUE(refused({{{-1, 4}}}));
  EXPECT_TRUE(refused({{{4, 2}}, {{0, 5}}}));
  EXPECT_TRUE(refused({{{0, 5}, {0, 1}}}));
}

TEST(FlaxIndex, RefusesDataFilesThatAreNotThere) {
  EXPECT_NE(problem(index_of({vector_leaf({{{0, 5}}}, {1})}, 1, "")).find("data file 1"), std::string::npos);
  EXPECT_NE(problem(index_of({vector_leaf({{{0, 5}}}, {-1})}, 1, "")).find("data file -1"), std::string::npos);
  EXPECT_NE(problem(index_of({vector_leaf({{{0, 5}}}, {0, 0})}, 1, "")).find("1 slices in 2 places"),
            std::string::npos);
  EXPECT_NE(problem(index_of({}, 1000000000, "")).find("1000000000 data files"), std::string::npos);
}

TEST(FlaxIndex, RefusesTheSameKeyTwice) {
  const FlaxLeaf leaf = vector_leaf({{{0, 5}}}, {0});
  EXPECT_NE(problem(index_of({leaf, leaf}, 1, "")).find("key 'x' twice"), std::string::npos);
}

TEST(FlaxIndex, NamesFilesAsTheOriginalDoes) {
  EXPECT_EQ(flax_data_path("a/ckpt_7", 2, 16), "a/ckpt_7.data-00002-of-00016");
  EXPECT_EQ(flax_index_path("a/ckpt_7"), "a/ckpt_7.index");
  EXPECT_EQ(flax_prefix_of("a/ckpt_7.data-00002-of-00016"), "a/ckpt_7");
  EXPECT_EQ(flax_prefix_of("ckpt_7.index"), "ckpt_7");
  EXPECT_EQ(flax_prefix_of("a/ckpt_7"), "");
  EXPECT_EQ(flax_prefix_of("a/.index"), "");
}

}  // namespace
}  // namespace vitrail
