#include <gtest/gtest.h>

#include "convert/names.hpp"
#include "tests/convert/memory_tensors.hpp"
#include "tests/convert/model_samples.hpp"
#include "tests/convert/sample_tensors.hpp"
#include "tests/errors.hpp"

namespace vitrail {
namespace {

using testing::copy_into;
using testing::error_of;
using testing::expect_says;
using testing::MemorySource;
using testing::read_values;

/// A model as a file of some naming has it.
void write_file(MemorySource& file, Naming naming, const ModelConfig& config, const std::string& prefix = "") {
  MemorySource ours;
  add_model(ours, config);
  MappedSource theirs(ours, file_parts(naming, config));
  copy_into(file, theirs, prefix);
}

/// Does a file hold the model's tensors, bit by bit, and does it tell the model?
void expect_model(MemorySource& file, Naming naming, const ModelConfig& config, const std::string& prefix = "",
                  const ModelHints& hints = {}) {
  MemorySource ours;
  add_model(ours, config);
  const NamedModel found = find_model(naming, file.tensors(), "file", hints);
  EXPECT_EQ(found.prefix, prefix);
  EXPECT_EQ(found.shaped.model, config);
  MappedSource read(file, found.parts);
  ASSERT_EQ(read.tensors().size(), ours.tensors().size());
  for (std::size_t i = 0; i < read.tensors().size(); ++i) {
    EXPECT_EQ(read.tensors()[i], ours.tensors()[i]);
    EXPECT_EQ(read_values(read, read.tensors()[i]), ours.values(read.tensors()[i].name)) << read.tensors()[i].name;
  }
}

/// What find_model says when it refuses.
Error refusal(const MemorySource& file, Naming naming, const ModelHints& hints = {}) {
  return error_of([&] { (void)find_model(naming, file.tensors(), "a.file", hints); });
}

TEST(Names, EveryModelIsFoundAgainUnderOfficialNames) {
  for (const ModelConfig& config : {testing::vit_sample(), testing::sparse_sample(), testing::soft_sample(),
                                    testing::map_sample(), testing::gap_sample()}) {
    MemorySource file;
    write_file(file, Naming::official, config);
    expect_model(file, Naming::official, config);
  }
}

TEST(Names, EveryModelIsFoundAgainUnderTimmsNames) {
  ModelHints heads;
  heads.heads = 2;
  for (const ModelConfig& config : {testing::vit_sample(), testing::sparse_sample(), testing::soft_sample(),
                                    testing::map_sample(), testing::gap_sample()}) {
    MemorySource file;
    write_file(file, Naming::timm, config);
    expect_model(file, Naming::timm, config, "", heads);
  }
}

TEST(Names, DenseModelsAreFoundAgainInNpzFiles) {
  for (const ModelConfig& config : {testing::vit_sample(), testing::map_sample(), testing::gap_sample()}) {
    for (const char* prefix : {"", "params/", "opt/target/"}) {
      MemorySource file;
      write_file(file, Naming::vit_npz, config, prefix);
      expect_model(file, Naming::vit_npz, config, prefix);
    }
  }
}

TEST(Names, NpzFilesHaveNoWordsForExperts) {
  const Error error = error_of([] { (void)file_parts(Naming::vit_npz, testing::sparse_sample()); });
  EXPECT_EQ(error.code(), ExitCode::usage);
  EXPECT_NE(std::string(error.what()).find("Convert to safetensors or flax"), std::string::npos) << error.what();
}

TEST(Names, NpzFilesAreWrittenWithTheOldSuffixes) {
  MemorySource file;
  write_file(file, Naming::vit_npz, testing::vit_sample());
  const auto has = [&](const std::string& name) {
    return std::any_of(file.tensors().begin(), file.tensors().end(), [&](const auto& t) { return t.name == name; });
  };
  EXPECT_TRUE(has("Transformer/encoderblock_2/MultiHeadDotProductAttention_1/query/kernel"));
  EXPECT_TRUE(has("Transformer/encoderblock_2/LayerNorm_2/scale"));
  EXPECT_TRUE(has("Transformer/encoderblock_2/MlpBlock_3/Dense_1/bias"));
  EXPECT_TRUE(has("Transformer/posembed_input/pos_embedding"));
  EXPECT_TRUE(has("head/kernel"));
}

TEST(Names, ANameInBothSpellingsIsRefused) {
  MemorySource file;
  write_file(file, Naming::vit_npz, testing::vit_sample());
  file.add("Transformer/encoderblock_0/LayerNorm_1/scale", {8});
  expect_says(refusal(file, Naming::vit_npz), "a.file has both");
}

TEST(Names, OfATrainingStateTheParametersAreTaken) {
  MemorySource file;
  write_file(file, Naming::official, testing::sparse_sample(), "params/");
  file.add("step", {});
  file.add("opt_state/0/mu/embedding/kernel", {8, 8, 3, 8});
  const NamedModel found = find_model(Naming::official, file.tensors(), "file", {});
  EXPECT_EQ(found.left_out, (std::vector<std::string>{"step", "opt_state/0/mu/embedding/kernel"}));
  expect_model(file, Naming::official, testing::sparse_sample(), "params/");
}

TEST(Names, ThePrefixMayBeGiven) {
  MemorySource file;
  write_file(file, Naming::official, testing::vit_sample(), "average/");
  EXPECT_EQ(find_model(Naming::official, file.tensors(), "file", {}, "average/").parts.front().from,
            "average/embedding/kernel");
  expect_says(refusal(file, Naming::official), "a.file has no tensor embedding/kernel");
}

TEST(Names, EnsemblesAreRefused) {
  MemorySource file;
  write_file(file, Naming::official, testing::sparse_sample());
  file.reshape("Encoder/encoderblock_1/Moe/Router/dense/kernel", {8, 2, 2});
  const Error error = refusal(file, Naming::official);
  EXPECT_EQ(error.code(), ExitCode::usage);
  EXPECT_TRUE(std::string(error.what()).starts_with("a.file holds an ensemble (E^3), which is not built"));
}

TEST(Names, PositionsWithoutAClassTokensRowGetOneOfZeros) {
  const ModelConfig config = testing::vit_sample();
  for (const auto& [naming, name] :
       {std::pair(Naming::vit_npz, "pos_embedding"), std::pair(Naming::timm, "pos_embed")}) {
    MemorySource file;
    write_file(file, naming, config);
    if (naming == Naming::vit_npz) file.rename("Transformer/posembed_input/pos_embedding", name);
    file.reshape(name, {1, 9, 8});
    std::vector<float> positions = file.values(name);
    positions.erase(positions.begin(), positions.begin() + 8);
    file.values(name) = positions;
    ModelHints hints;
    hints.heads = 2;
    const NamedModel found = find_model(naming, file.tensors(), "file", hints);
    EXPECT_TRUE(found.shaped.patches_only);
    EXPECT_EQ(found.shaped.model, config);
    MappedSource read(file, found.parts);
    std::vector<float> expected(8, 0.0F);
    expected.insert(expected.end(), positions.begin(), positions.end());
    EXPECT_EQ(read_values(read, {"Encoder/posembed_input/pos_embedding", {1, 10, 8}, Dtype::f32}), expected);
  }
}

TEST(Names, OneTensorTooManyTooFewOrIllShapedIsNamed) {
  const auto altered = [](const std::function<void(MemorySource&)>& alter) {
    MemorySource file;
    write_file(file, Naming::official, testing::sparse_sample());
    alter(file);
    return refusal(file, Naming::official);
  };
  const std::string norm = "Encoder/encoderblock_1/LayerNorm_1/scale";
  expect_says(altered([&](MemorySource& file) { file.remove(norm); }), "a.file has no tensor " + norm);
  expect_says(altered([&](MemorySource& file) { file.rename(norm, norm + "s"); }), "Did you mean '" + norm + "s'?");
  expect_says(altered([&](MemorySource& file) { file.reshape(norm, {9}); }), norm + " is [9]");
  expect_says(altered([&](MemorySource& file) { file.add("extra", {2}); }), "a.file has extra [2]");
  expect_says(altered([&](MemorySource& file) { file.remove("head/kernel"); }), "has no tensor head/kernel");
  expect_says(altered([&](MemorySource& file) { file.reshape("head/kernel", {40}); }), "head/kernel is [40]");
}

}  // namespace
}  // namespace vitrail
