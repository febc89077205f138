#include <gtest/gtest.h>

#include "convert/npz_names.hpp"

namespace vitrail {
namespace {

TEST(NpzNames, AreReadWithOldAndNewSuffixes) {
  const char* block = "Transformer/encoderblock_10/";
  const auto ours = [&](const std::string& rest) { return table_name_of_npz(block + rest); };
  const std::string at = "Encoder/encoderblock_10/";
  EXPECT_EQ(ours("LayerNorm_0/scale"), at + "LayerNorm_0/scale");
  EXPECT_EQ(ours("LayerNorm_1/scale"), at + "LayerNorm_1/scale");
  EXPECT_EQ(ours("LayerNorm_2/scale"), at + "LayerNorm_1/scale");
  EXPECT_EQ(ours("MultiHeadDotProductAttention_0/out/bias"), at + "SelfAttention/out/bias");
  EXPECT_EQ(ours("MultiHeadDotProductAttention_1/out/bias"), at + "SelfAttention/out/bias");
  EXPECT_EQ(ours("MlpBlock_0/Dense_0/bias"), at + "Mlp/Dense_0/bias");
  EXPECT_EQ(ours("MlpBlock_3/Dense_0/bias"), at + "Mlp/Dense_0/bias");
  EXPECT_EQ(table_name_of_npz("Transformer/encoder_norm/bias"), "Encoder/encoder_norm/bias");
  EXPECT_EQ(table_name_of_npz("pos_embedding"), "Encoder/posembed_input/pos_embedding");
  EXPECT_EQ(table_name_of_npz("something/else"), "something/else");
}

TEST(NpzNames, OfAttentionPoolingAreThoseOfBigVision) {
  EXPECT_EQ(table_name_of_npz("MAPHead_0/MlpBlock_0/Dense_1/kernel"), "MapHead/Mlp/Dense_1/kernel");
  EXPECT_EQ(npz_name_of_table("MapHead/Mlp/Dense_1/kernel"), "MAPHead_0/MlpBlock_0/Dense_1/kernel");
  EXPECT_EQ(npz_name_of_table("MapHead/probe"), "MAPHead_0/probe");
}

}  // namespace
}  // namespace vitrail
