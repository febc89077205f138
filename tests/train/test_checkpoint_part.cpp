#include <gtest/gtest.h>

#include "base/sha256.hpp"
#include "io/h5.hpp"
#include "tests/train/checkpoint_samples.hpp"
#include "tests/train/file_size_limit.hpp"
#include "train/checkpoint_part.hpp"

namespace vitrail {
namespace {

using Opening = PartWriter::Opening;
using testing::content_of;
using testing::failure_of;
using testing::replace_content;
using testing::Sample;

bool says(const std::string& message, const std::string& words) { return message.find(words) != std::string::npos; }

class CheckpointPartTest : public ::testing::Test {
 protected:
  testing::TemporaryFolder folder_;
  std::filesystem::path path_ = folder_.path() / part_name(3, 8);
  Sample sample_;
  std::vector<CheckpointPiece> pieces_ = sample_.pieces(100);

  StoredTensors write() { return write_part(path_, Opening::create, pieces_); }
};

TEST_F(CheckpointPartTest, IsNamedByRankAndRanks) { EXPECT_EQ(path_.filename(), "part-00003-of-00008.h5"); }

TEST_F(CheckpointPartTest, HoldsOneDatasetPerPieceNamedByItsFirstElement) {
  write();
  const h5::File file = h5::File::open(path_, ExitCode::checkpoint);
  EXPECT_EQ(file.datasets_below("parameters"),
            (std::vector<std::string>{"block/bias/from-0", "block/kernel/from-0", "block/kernel/from-100",
                                      "block/kernel/from-200", "temperature/from-0"}));
  EXPECT_EQ(file.info("parameters/block/kernel/from-200").shape, h5::Shape{31});
  EXPECT_EQ(file.info("moments/block/kernel/from-0").dtype, Dtype::bf16);
}

TEST_F(CheckpointPartTest, SaysWhereEveryPieceLiesAndItsChecksum) {
  const StoredTensors written = write();
  const std::string content = content_of(path_);
  EXPECT_EQ(written.size(), sample_.tensors().size());
  for (const CheckpointPiece& piece : pieces_) {
    const StoredTensor& tensor = written.at(piece.tensor);
    EXPECT_EQ(tensor.shape, piece.shape);
    if (piece.data.elements() == 0) continue;
    const auto found = std::find_if(tensor.pieces.begin(), tensor.pieces.end(),
                                    [&](const StoredPiece& stored) { return stored.first == piece.first; });
    ASSERT_NE(found, tensor.pieces.end());
    const std::string data(static_cast<const char*>(piece.data.data), static_cast<std::size_t>(piece.data.bytes()));
    EXPECT_EQ(content.substr(static_cast<std::size_t>(found->offset), data.size()), data);
    EXPECT_EQ(found->sums, sha256_of(data));
  }
}

TEST_F(CheckpointPartTest, DescribesTheBytesBetweenThePieces) {
  std::vector<Extent> extents;
  for (const auto& [name, tensor] : write()) {
    for (const StoredPiece& piece : tensor.pieces) extents.push_back(extent_of(piece, tensor.dtype));
  }
  std::string rest = content_of(path_);
  const CheckpointFile file = describe_part(path_, extents);
  EXPECT_EQ(file.name, "part-00003-of-00008.h5");
  EXPECT_EQ(file.bytes, static_cast<std::int64_t>(rest.size()));
  std::sort(extents.begin(), extents.end(), [](const Extent& a, const Extent& b) { return a.offset > b.offset; });
  for (const Extent& e : extents) rest.erase(static_cast<std::size_t>(e.offset), static_cast<std::size_t>(e.bytes));
  EXPECT_EQ(file.sum, sha256_of(rest));
}

TEST_F(CheckpointPartTest, TheSameBitsMakeTheSameFile) {
  write();
  const std::string content = content_of(path_);
  write();
  EXPECT_EQ(content_of(path_), content);
}

TEST_F(CheckpointPartTest, WhatIsAppendedLeavesTheRestWhereItWas) {
  const std::span<const CheckpointPiece> all = pieces_;
  const StoredTensors first = write_part(path_, Opening::create, all.first(7));
  const StoredTensors second = write_part(path_, Opening::append, all.subspan(7));
  verify_part(path_, first);
  verify_part(path_, second);
}

TEST_F(CheckpointPartTest, VerifyNoticesEveryDamagedByteOfTheData) {
  const StoredTensors written = write();
  const std::string content = content_of(path_);
  for (const CheckpointPiece& piece : pieces_) {
    const std::string data(static_cast<const char*>(piece.data.data), static_cast<std::size_t>(piece.data.bytes()));
    if (data.size() < 8) continue;
    const std::size_t at = content.find(data);
    ASSERT_NE(at, std::string::npos) << piece.tensor;
    for (const std::size_t offset : {std::size_t{0}, data.size() / 2, data.size() - 1}) {
      std::string damaged = content;
      damaged[at + offset] = static_cast<char>(damaged[at + offset] ^ 1);
      replace_content(path_, damaged);
      const std::string said = failure_of([&] { verify_part(path_, written); });
      EXPECT_TRUE(says(said, text(piece.tensor, "/from-", piece.first)) && says(said, "reads back differently"))
          << said;
    }
  }
}

TEST_F(CheckpointPartTest, VerifyNoticesAShortFile) {
  const StoredTensors written = write();
  const std::string content = content_of(path_);
  for (std::size_t size = 0; size < content.size(); size += 997) {
    replace_content(path_, content.substr(0, size));
    failure_of([&] { verify_part(path_, written); });
  }
}

TEST_F(CheckpointPartTest, VerifyNoticesAMissingPieceAndOneThatIsElsewhere) {
  const StoredTensors first = write_part(path_, Opening::create, std::span(pieces_).first(1));
  write_part(path_, Opening::create, std::span(pieces_).subspan(1));
  EXPECT_TRUE(says(failure_of([&] { verify_part(path_, first); }), "there is no dataset"));
  StoredTensors written = write();
  written.at("counters").pieces[0].offset += 8;
  EXPECT_TRUE(says(failure_of([&] { verify_part(path_, written); }), "'counters/from-0'"));
}

std::ptrdiff_t open_files() {
  return std::distance(std::filesystem::directory_iterator("/proc/self/fd"), std::filesystem::directory_iterator());
}

TEST_F(CheckpointPartTest, AFullDiskIsAnErrorAndTheNextFileIsWritten) {
  const std::ptrdiff_t open_before = open_files();
  for (const rlim_t bytes : {0, 1, 800, 2000, 4000}) {
    const testing::FileSizeLimit limit(bytes);
    const std::string said = failure_of([&] { write(); });
    EXPECT_TRUE(says(said, path_.string()) && says(said, "File too large")) << said;
  }
  verify_part(path_, write());
  for (const rlim_t bytes : {8000, 9000, 12000}) {
    const testing::FileSizeLimit limit(bytes);
    const std::string said = failure_of([&] { write_part(path_, Opening::append, Sample(2).pieces(90)); });
    EXPECT_TRUE(says(said, path_.string())) << said;
  }
  EXPECT_EQ(open_files(), open_before);  // a file that stays open keeps its space
  const std::filesystem::path next = folder_.path() / part_name(4, 8);
  verify_part(next, write_part(next, Opening::create, pieces_));
}

TEST_F(CheckpointPartTest, GiveASignOfLifeForEveryPiece) {
  std::int64_t signs = 0;
  const auto alive = [&signs] { ++signs; };
  const StoredTensors written = write_part(path_, Opening::create, pieces_, alive);
  std::int64_t stored = 0;
  for (const auto& [name, tensor] : written) stored += std::ssize(tensor.pieces);
  EXPECT_EQ(signs, stored);
  verify_part(path_, written, alive);
  EXPECT_EQ(signs, 2 * stored);
}

TEST_F(CheckpointPartTest, RefusesPiecesThatCannotBeStored) {
  const std::vector<double> values(8);
  const auto check = [&](const CheckpointPiece& piece) { return failure_of([&] { check_piece(piece); }); };
  const ConstTensor two{values.data(), {2}, Dtype::f64};
  EXPECT_TRUE(says(check({"x", {3}, 2, two}), "lies outside the tensor"));
  EXPECT_TRUE(says(check({"x", {3}, -1, two}), "lies outside the tensor"));
  EXPECT_TRUE(says(check({"x", {2}, 0, {values.data(), {2}, Dtype::f64, DeviceKind::cuda}}), "device memory"));
  EXPECT_TRUE(says(check({"x", {2}, 0, {values.data(), {2}, Dtype::c128}}), "complex"));
  for (const char* name : {"", "/x", "x/", "a//b"}) EXPECT_TRUE(says(check({name, {2}, 0, two}), "single slashes"));
}

}  // namespace
}  // namespace vitrail
