#include <gtest/gtest.h>

#include "convert/names.hpp"
#include "tests/convert/memory_tensors.hpp"
#include "tests/convert/model_samples.hpp"
#include "tests/convert/sample_tensors.hpp"
#include "tests/errors.hpp"

namespace vitrail {
namespace {

using testing::error_of;
using testing::expect_says;
using testing::MemorySource;
using testing::read_values;

/// A model of ours, and what of it a file with timm's names holds.
class TimmNames : public ::testing::Test {
 protected:
  void write(const ModelConfig& config) {
    add_model(ours_, config);
    theirs_.emplace(ours_, file_parts(Naming::timm, config));
  }
  /// Tensor of the file; its shape is checked.
  std::vector<float> theirs(const std::string& name, const Shape& shape) {
    for (const TensorInfo& tensor : theirs_->tensors()) {
      if (tensor.name != name) continue;
      EXPECT_EQ(tensor.shape, shape) << name;
      return read_values(*theirs_, tensor);
    }
    ADD_FAILURE() << "no " << name;
    return {};
  }
  [[nodiscard]] float ours(const std::string& name, std::int64_t index) {
    return ours_.values(name).at(static_cast<std::size_t>(index));
  }

  MemorySource ours_;
  std::optional<MappedSource> theirs_;
};

constexpr const char* kBlock = "Encoder/encoderblock_1/";

// torch.nn.Linear: y[o] = sum_i weight[o][i] x[i]; ours: y[o] = sum_i x[i] kernel[i][o].
TEST_F(TimmNames, WeightsOfLinearLayersAreTransposed) {
  write(testing::vit_sample());
  const std::vector<float> weight = theirs("blocks.1.mlp.fc1.weight", {12, 8});
  for (std::int64_t o = 0; o < 12; ++o) {
    for (std::int64_t i = 0; i < 8; ++i) {
      EXPECT_EQ(weight[static_cast<std::size_t>(o * 8 + i)], ours(text(kBlock, "Mlp/Dense_0/kernel"), i * 12 + o));
    }
  }
  EXPECT_EQ(theirs("blocks.1.mlp.fc1.bias", {12}), ours_.values(text(kBlock, "Mlp/Dense_0/bias")));
  EXPECT_EQ(theirs("head.weight", {5, 8})[8], ours("head/kernel", 1));  // class 1, channel 0
}

// torch.nn.Conv2d: weight[out][channel][row][column]; ours: kernel[row][column][channel][out].
TEST_F(TimmNames, WeightsOfPatchesHaveTheOrderOfConvolutions) {
  write(testing::vit_sample());
  const std::vector<float> weight = theirs("patch_embed.proj.weight", {8, 3, 8, 8});
  for (std::int64_t d = 0; d < 8; ++d) {
    for (std::int64_t channel = 0; channel < 3; ++channel) {
      for (std::int64_t row = 0; row < 8; ++row) {
        for (std::int64_t column = 0; column < 8; ++column) {
          EXPECT_EQ(weight[static_cast<std::size_t>(((d * 3 + channel) * 8 + row) * 8 + column)],
                    ours("embedding/kernel", ((row * 8 + column) * 3 + channel) * 8 + d));
        }
      }
    }
  }
}

// timm: qkv(x).reshape(B, N, 3, heads, Dh): row part * 8 + head * 4 + j of the weight; ours: kernel[i][head][j].
TEST_F(TimmNames, QueriesKeysAndValuesAreRowsOfOneMatrix) {
  write(testing::vit_sample());
  const std::vector<float> weight = theirs("blocks.1.attn.qkv.weight", {24, 8});
  const std::vector<float> bias = theirs("blocks.1.attn.qkv.bias", {24});
  const std::vector<std::string> parts = {"query", "key", "value"};
  for (std::int64_t part = 0; part < 3; ++part) {
    const std::string at = kBlock + ("SelfAttention/" + parts[static_cast<std::size_t>(part)]);
    for (std::int64_t head = 0; head < 2; ++head) {
      for (std::int64_t j = 0; j < 4; ++j) {
        const std::int64_t row = part * 8 + head * 4 + j;
        EXPECT_EQ(bias[static_cast<std::size_t>(row)], ours(at + "/bias", head * 4 + j));
        for (std::int64_t i = 0; i < 8; ++i) {
          EXPECT_EQ(weight[static_cast<std::size_t>(row * 8 + i)], ours(at + "/kernel", (i * 2 + head) * 4 + j));
        }
      }
    }
  }
}

// timm: proj of the heads' outputs, head after head; ours: kernel[head][j][o].
TEST_F(TimmNames, TheOutputOfAttentionReadsHeadAfterHead) {
  write(testing::vit_sample());
  const std::vector<float> weight = theirs("blocks.1.attn.proj.weight", {8, 8});
  for (std::int64_t o = 0; o < 8; ++o) {
    for (std::int64_t column = 0; column < 8; ++column) {
      EXPECT_EQ(weight[static_cast<std::size_t>(o * 8 + column)],
                ours(text(kBlock, "SelfAttention/out/kernel"), column * 8 + o));
    }
  }
}

TEST_F(TimmNames, ExpertsAreMatricesOfOneTensor) {
  write(testing::sparse_sample());
  const std::vector<float> weight = theirs("blocks.1.moe.experts.fc2.weight", {4, 8, 12});
  for (std::int64_t e = 0; e < 4; ++e) {
    for (std::int64_t o = 0; o < 8; ++o) {
      for (std::int64_t i = 0; i < 12; ++i) {
        EXPECT_EQ(weight[static_cast<std::size_t>((e * 8 + o) * 12 + i)],
                  ours(text(kBlock, "Moe/Mlp/Dense_1/kernel"), (e * 12 + i) * 8 + o));
      }
    }
  }
  EXPECT_EQ(theirs("blocks.1.moe.experts.fc1.bias", {4, 12}), ours_.values(text(kBlock, "Moe/Mlp/Dense_0/bias")));
  EXPECT_EQ(theirs("blocks.1.moe.router.weight", {4, 8})[8], ours(text(kBlock, "Moe/Router/dense/kernel"), 1));
}

TEST_F(TimmNames, SlotsOfSoftMoeAreTakenAsTheyAre) {
  write(testing::soft_sample());
  EXPECT_EQ(theirs("blocks.1.moe.router.mu", {8, 4, 3}), ours_.values(text(kBlock, "Moe/Router/mu")));
  EXPECT_EQ(theirs("blocks.1.moe.router.scale", {}), ours_.values(text(kBlock, "Moe/Router/scale")));
}

TEST_F(TimmNames, AttentionPoolingHasKeysAndValuesInOneMatrix) {
  write(testing::map_sample());
  const std::vector<float> weight = theirs("attn_pool.kv.weight", {16, 8});
  EXPECT_EQ(weight[8 * 8 + 8], ours("MapHead/MultiHeadDotProductAttention/value/kernel", 1));  // row 9, column 0
  EXPECT_EQ(theirs("attn_pool.latent", {1, 1, 8}), ours_.values("MapHead/probe"));
  EXPECT_EQ(theirs("pre_logits.fc.weight", {6, 8})[8], ours("pre_logits/kernel", 1));
}

/// timm's tensors of a small model of `width` channels.
MemorySource& file_of_width(MemorySource& file, std::int64_t width) {
  ModelConfig config = testing::vit_sample();
  config.width = width;
  MemorySource ours;
  add_model(ours, config);
  MappedSource theirs(ours, file_parts(Naming::timm, config));
  copy_into(file, theirs);
  return file;
}

TEST(TimmHeads, Have64ChannelsUnlessToldOtherwise) {
  MemorySource file;
  file_of_width(file, 128);
  const NamedModel found = find_model(Naming::timm, file.tensors(), "f", {});
  EXPECT_EQ(found.shaped.model.heads, 2);
  ASSERT_EQ(found.shaped.assumptions.size(), 1U);
  EXPECT_NE(found.shaped.assumptions[0].find("--heads"), std::string::npos);
  ModelHints hints;
  hints.heads = 4;
  const NamedModel told = find_model(Naming::timm, file.tensors(), "f", hints);
  EXPECT_EQ(told.shaped.model.heads, 4);
  EXPECT_TRUE(told.shaped.assumptions.empty());
}

TEST(TimmHeads, MustBeToldWhenTheyDoNotComeOutEven) {
  MemorySource file;
  file_of_width(file, 8);
  const Error error = error_of([&] { (void)find_model(Naming::timm, file.tensors(), "f", {}); });
  EXPECT_EQ(error.code(), ExitCode::usage);
  EXPECT_NE(std::string(error.what()).find("Give --heads"), std::string::npos) << error.what();
}

TEST(TimmFiles, OfOtherModelsAreRefusedByTheTensor) {
  MemorySource file;
  file_of_width(file, 128);
  file.add("blocks.0.ls1.gamma", {128});
  expect_says(error_of([&] { (void)find_model(Naming::timm, file.tensors(), "f", {}); }), "f has blocks.0.ls1.gamma");
  file.rename("norm.weight", "fc_norm.weight");
  const Error error = error_of([&] { (void)find_model(Naming::timm, file.tensors(), "f", {}); });
  EXPECT_EQ(error.code(), ExitCode::usage);
  EXPECT_NE(std::string(error.what()).find("fc_norm"), std::string::npos) << error.what();
}

}  // namespace
}  // namespace vitrail
