#include <gtest/gtest.h>

#include "convert/model_shapes.hpp"
#include "model/params.hpp"
#include "tests/convert/model_samples.hpp"
#include "tests/errors.hpp"

namespace vitrail {
namespace {

using testing::error_of;
using Shapes = std::map<std::string, Shape>;

constexpr const char* kPositions = "Encoder/posembed_input/pos_embedding";

Shapes shapes_of(const ModelConfig& config) {
  Shapes shapes;
  for (const ParameterSpec& spec : parameter_table(config)) shapes[spec.name] = spec.shape;
  return shapes;
}

std::string refusal(const Shapes& shapes, ExitCode code, const ModelHints& hints = {}) {
  const Error error = error_of([&] { (void)model_of_shapes(shapes, hints, "f"); });
  EXPECT_EQ(error.code(), code) << error.what();
  return error.what();
}

TEST(ModelShapes, TellSquareImages) {
  const ShapedModel found = model_of_shapes(shapes_of(testing::vit_sample()), {}, "f");
  EXPECT_EQ(found.model, testing::vit_sample());
  EXPECT_TRUE(found.image_is_known);
  EXPECT_FALSE(found.patches_only);
}

TEST(ModelShapes, NeedAHintForOtherImages) {
  ModelConfig wide = testing::vit_sample();
  wide.image_width = 32;
  EXPECT_NE(refusal(shapes_of(wide), ExitCode::usage).find("13 position embeddings"), std::string::npos);
  ModelHints hints;
  hints.image_height = 24;
  hints.image_width = 32;
  EXPECT_EQ(model_of_shapes(shapes_of(wide), hints, "f").model, wide);
}

TEST(ModelShapes, DoNotTellImagesWithoutPositionEmbeddings) {
  ModelConfig without = testing::gap_sample();
  without.width = 8;
  without.positions = PositionEmbedding::sincos2d;
  EXPECT_FALSE(model_of_shapes(shapes_of(without), {}, "f").image_is_known);
  ModelHints hints;
  hints.positions = PositionEmbedding::sincos2d;
  hints.image_height = hints.image_width = 24;
  const ShapedModel found = model_of_shapes(shapes_of(without), hints, "f");
  EXPECT_TRUE(found.image_is_known);
  EXPECT_EQ(found.model, without);
}

TEST(ModelShapes, LeaveTheClassifierToHintsWithoutAClassToken) {
  ModelConfig first = testing::gap_sample();
  first.classifier = Classifier::first;
  ModelHints hints;
  hints.classifier = Classifier::first;
  EXPECT_EQ(model_of_shapes(shapes_of(first), hints, "f").model, first);
  EXPECT_EQ(model_of_shapes(shapes_of(first), {}, "f").model.classifier, Classifier::gap);
  EXPECT_EQ(model_of_shapes(shapes_of(first), {}, "f").assumptions.size(), 1U);
}

TEST(ModelShapes, OfNoModelAreRefused) {
  Shapes shapes = shapes_of(testing::vit_sample());
  shapes.erase("embedding/kernel");
  shapes["embeding/kernel"] = {8, 8, 3, 8};
  EXPECT_NE(refusal(shapes, ExitCode::checkpoint).find("Did you mean 'embeding/kernel'?"), std::string::npos);
  shapes = shapes_of(testing::vit_sample());
  shapes["embedding/kernel"] = {0, 8, 3, 8};
  EXPECT_NE(refusal(shapes, ExitCode::checkpoint).find("has no elements"), std::string::npos);
  shapes = shapes_of(testing::vit_sample());
  shapes["Encoder/encoderblock_0/SelfAttention/query/kernel"] = {8, 3, 4};
  EXPECT_NE(refusal(shapes, ExitCode::usage).find("3 heads"), std::string::npos);
  shapes = shapes_of(testing::vit_sample());
  shapes[kPositions] = {1, 12, 8};
  EXPECT_NE(refusal(shapes, ExitCode::usage).find("12 position embeddings"), std::string::npos);
}

}  // namespace
}  // namespace vitrail
