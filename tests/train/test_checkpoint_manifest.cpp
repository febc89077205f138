#include <gtest/gtest.h>

#include "tests/train/checkpoint_samples.hpp"
#include "train/checkpoint_manifest.hpp"

namespace vitrail {
namespace {

using testing::failure_of;
using testing::replace_content;

bool says(const std::string& message, const std::string& words) { return message.find(words) != std::string::npos; }

/// Two files; "x" [10] in three pieces, "y" [2, 2] in one.
CheckpointManifest sample() {
  CheckpointManifest manifest;
  manifest.info = testing::sample_info(12);
  manifest.info.config.set("nan", std::numeric_limits<double>::quiet_NaN()).set("third", 1.0 / 3.0);
  manifest.files = {{"part-00000-of-00002.h5", 100, "aa"}, {"part-00001-of-00002.h5", 200, "bb"}};
  manifest.info.data = Json::object().set("images", 768);
  manifest.block_bytes = 8;
  const std::string a(64, 'a'), b(64, 'b');
  manifest.tensors["x"] = {{10}, Dtype::f32, {{1, 6, 4, 184, a + b}, {0, 0, 3, 30, b + a}, {1, 3, 3, 0, a + a}}};
  manifest.tensors["y"] = {{2, 2}, Dtype::bf16, {{0, 0, 4, 0, a}}};
  return manifest;
}

class CheckpointManifestTest : public ::testing::Test {
 protected:
  std::string failure_of_reading(const std::string& content) {
    replace_content(path_, content);
    return failure_of([&] { read_manifest(folder_.path()); });
  }
  std::string failure_of_reading(const CheckpointManifest& manifest) {
    return failure_of_reading(manifest_text(manifest));
  }
  testing::TemporaryFolder folder_;
  std::filesystem::path path_ = folder_.path() / kManifestName;
};

TEST_F(CheckpointManifestTest, ReadsBackWhatWasWritten) {
  replace_content(path_, manifest_text(sample()));
  const CheckpointManifest read = read_manifest(folder_.path());
  EXPECT_EQ(read.info.step, 12);
  EXPECT_EQ(read.info.config.at("third").as_real(), 1.0 / 3.0);
  EXPECT_TRUE(read.info.config.at("nan").is_null());
  EXPECT_EQ(read.info.data.at("images").as_integer(), 768);
  ASSERT_EQ(read.files.size(), 2U);
  EXPECT_EQ(read.files[1].name, "part-00001-of-00002.h5");
  EXPECT_EQ(read.files[1].bytes, 200);
  EXPECT_EQ(read.files[1].sum, "bb");
  EXPECT_EQ(read.block_bytes, 8);
  const StoredTensor& x = read.tensors.at("x");
  ASSERT_EQ(x.pieces.size(), 3U);
  EXPECT_EQ(x.pieces[1].first, 3);  // sorted
  EXPECT_EQ(x.pieces[0].offset, 30);
  EXPECT_EQ(x.pieces[0].sums, std::string(64, 'b') + std::string(64, 'a'));
  EXPECT_EQ(x.pieces[1].file, 1);
  EXPECT_EQ(read.tensors.at("y").dtype, Dtype::bf16);
  EXPECT_EQ(read.tensors.at("y").shape, Shape({2, 2}));
}

TEST_F(CheckpointManifestTest, EveryChangedByteIsAnError) {
  const std::string content = manifest_text(sample());
  for (std::size_t at = 0; at < content.size(); ++at) {
    if (std::isspace(static_cast<unsigned char>(content[at])) != 0) continue;
    if (at > 0 && content[at] == content[at - 1]) continue;  // one digit of each run will do
    std::string changed = content;
    changed[at] = changed[at] == '1' ? '2' : '1';
    replace_content(path_, changed);
    EXPECT_THROW(read_manifest(folder_.path()), Error) << "byte " << at << " of " << changed;
  }
}

TEST_F(CheckpointManifestTest, EveryTruncationIsAnError) {
  const std::string content = manifest_text(sample());
  for (std::size_t size = 0; size < content.size() - 2; size += 5) {
    const std::string said = failure_of_reading(content.substr(0, size));
    EXPECT_TRUE(says(said, path_.string())) << said;
  }
}

TEST_F(CheckpointManifestTest, NamesTheElementsThatAreInNoPiece) {
  const auto without = [](std::size_t piece) {
    CheckpointManifest manifest = sample();
    auto& pieces = manifest.tensors["x"].pieces;
    pieces.erase(pieces.begin() + static_cast<std::ptrdiff_t>(piece));
    return manifest;
  };
  EXPECT_TRUE(says(failure_of_reading(without(0)), "elements 6 to 9 of tensor 'x' are in no piece"));
  EXPECT_TRUE(says(failure_of_reading(without(1)), "elements 0 to 2 of tensor 'x' are in no piece"));
  EXPECT_TRUE(says(failure_of_reading(without(2)), "elements 3 to 5 of tensor 'x' are in no piece"));
}

TEST_F(CheckpointManifestTest, NamesTheElementsThatAreInTwoPieces) {
  CheckpointManifest manifest = sample();
  manifest.tensors["x"].pieces[1].count = 5;
  EXPECT_TRUE(says(failure_of_reading(manifest), "elements 3 to 4 of tensor 'x' are in two pieces"));
  manifest = sample();
  manifest.tensors["y"].pieces.push_back({1, 0, 4, 0, std::string(64, 'a')});
  EXPECT_TRUE(says(failure_of_reading(manifest), "elements 0 to 3 of tensor 'y' are in two pieces"));
}

TEST_F(CheckpointManifestTest, RefusesPiecesOutsideTheTensorAndOfUnknownFiles) {
  CheckpointManifest manifest = sample();
  manifest.tensors["x"].pieces[0].count = 5;
  EXPECT_TRUE(says(failure_of_reading(manifest), "lies outside the tensor"));
  manifest = sample();
  manifest.tensors["x"].pieces[0].first = -1;
  EXPECT_TRUE(says(failure_of_reading(manifest), "lies outside the tensor"));
  manifest = sample();
  manifest.tensors["x"].pieces[0].file = 2;
  EXPECT_TRUE(says(failure_of_reading(manifest), "the checkpoint has 2 files"));
}

TEST_F(CheckpointManifestTest, RefusesPiecesBeyondTheirFileAndBlocksWithoutChecksums) {
  CheckpointManifest manifest = sample();
  manifest.tensors["x"].pieces[0].offset = 185;
  EXPECT_TRUE(says(failure_of_reading(manifest), "the file has 200 bytes"));
  manifest.tensors["x"].pieces[0].offset = -1;
  EXPECT_TRUE(says(failure_of_reading(manifest), "the file has 200 bytes"));
  manifest = sample();
  manifest.tensors["x"].pieces[0].sums.pop_back();
  EXPECT_TRUE(
      says(failure_of_reading(manifest), "127 digits of checksums for a piece of tensor 'x' (it has 2 blocks)"));
  manifest = sample();
  manifest.block_bytes = 4;
  EXPECT_TRUE(says(failure_of_reading(manifest), "they must hold whole elements"));
}

TEST_F(CheckpointManifestTest, HasALineForEachTensor) {
  const std::string content = manifest_text(sample());
  EXPECT_TRUE(says(content, "\n  \"x\": {\"shape\":[10],\"dtype\":\"f32\",\"pieces\":[[1,6,4,184,\"aaaa")) << content;
  EXPECT_TRUE(says(content, "\n \"block_bytes\": 8,\n"));
}

TEST_F(CheckpointManifestTest, RefusesFilesOutsideItsFolder) {
  CheckpointManifest manifest = sample();
  manifest.files[0].name = "../part-00000-of-00002.h5";
  EXPECT_TRUE(says(failure_of_reading(manifest), "own folder"));
}

TEST_F(CheckpointManifestTest, RefusesImpossibleShapes) {
  const auto with_shape = [](const std::string& shape) {
    std::string tensors = R"({"x": {"shape": )" + shape + R"(, "dtype": "f32", "pieces": []}})";
    return failure_of([&] { tensors_from_json(Json::parse(tensors, "test", ExitCode::checkpoint)); });
  };
  EXPECT_TRUE(says(with_shape("[-1]"), "tensor 'x'"));
  EXPECT_TRUE(says(with_shape("[1, 1, 1, 1, 1, 1, 1]"), "tensor 'x'"));
  EXPECT_TRUE(says(with_shape("[4294967296, 4294967296]"), "tensor 'x'"));
}

TEST_F(CheckpointManifestTest, TellsAnotherVersionAndAnotherKindOfFile) {
  std::string content = manifest_text(sample());
  EXPECT_TRUE(says(failure_of_reading(content.replace(content.find("\"version\": 2"), 12, "\"version\": 1")),
                   "has version 1 (this program reads version 2). Use the version of Vitrail that wrote it"));
  EXPECT_TRUE(says(failure_of_reading(R"({"shards": []})"), "is not the manifest of a Vitrail checkpoint"));
}

}  // namespace
}  // namespace vitrail
