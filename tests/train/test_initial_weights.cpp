#include <algorithm>
#include <functional>
#include <map>

#include <gtest/gtest.h>

#include "model/position_resize.hpp"
#include "tests/model/small_model.hpp"
#include "tests/train/checkpoint_samples.hpp"
#include "train/initial_weights.hpp"

namespace vitrail {
namespace {

using testing::small_config;
using testing::TableMemory;
using testing::TemporaryFolder;
using Values = std::map<std::string, std::vector<double>>;

/// Numbers that say which tensor and which element they are of; exact in f32.
double source_value(std::size_t tensor, std::int64_t element) {
  return static_cast<double>(1000 * (tensor + 1)) + static_cast<double>(element) / 8;
}
constexpr double kFresh = -7;

class InitialWeightsTest : public ::testing::Test {
 protected:
  /// Saves a model's tensors under a prefix, and that of every one under another.
  void save(const ModelConfig& config, Dtype dtype = Dtype::f32, const std::string& also = "") {
    const std::vector<ParameterSpec> table = parameter_table(config);
    const TableMemory memory(*device_, dtype, table);
    std::vector<CheckpointPiece> pieces;
    for (std::size_t i = 0; i < table.size(); ++i) {
      const std::int64_t count = memory.tensors[i].elements();
      std::vector<double>& values = source_[table[i].name];
      values.clear();
      for (std::int64_t j = 0; j < count; ++j) values.push_back(source_value(i, j));
      from_doubles(values, memory.tensors[i]);
      pieces.push_back({"parameters/" + table[i].name, table[i].shape, 0, memory.tensors[i].view({count})});
      pieces.push_back({"adam_m/" + table[i].name, table[i].shape, 0, memory.tensors[i].view({count})});
      if (also.empty()) continue;
      for (double& value : values) value += 0.5;
      averages_.push_back(std::make_unique<TableMemory>(*device_, dtype, std::vector<ParameterSpec>{table[i]}));
      const Tensor average = averages_.back()->tensors[0];
      from_doubles(values, average);
      pieces.push_back({also + table[i].name, table[i].shape, 0, average.view({count})});
    }
    const auto self = make_self_communicator();
    save_checkpoint(*self, folder_.path(), testing::sample_info(3), pieces, {.keep_last = 0});
  }

  /// Loads the checkpoint into a model of `config` with experts first .. first + here - 1 (0: all).
  Values load(const ModelConfig& config, const InitialWeightsOptions& options = {}, std::int64_t first = 0,
              std::int64_t here = 0) {
    const std::vector<ParameterSpec> table = parameter_table(config);
    std::vector<ParameterSpec> mine = table;
    for (ParameterSpec& spec : mine) {
      if (!spec.expert || here == 0) continue;
      std::vector<std::int64_t> lengths(spec.shape.lengths().begin(), spec.shape.lengths().end());
      lengths[0] = here;
      spec.shape = Shape(std::span<const std::int64_t>(lengths));
    }
    const TableMemory memory(*device_, Dtype::f32, mine);
    for (const Tensor& tensor : memory.tensors) {
      from_doubles(std::vector<double>(static_cast<std::size_t>(tensor.elements()), kFresh), tensor);
    }
    const CheckpointReader reader(folder_.path());
    const InitialWeights weights(table, reader, options);
    weights.load(*device_, first, memory.tensors);
    report_ = weights.report();
    upcycled_ = weights.upcycled();
    Values loaded;
    for (std::size_t i = 0; i < table.size(); ++i) loaded[table[i].name] = to_doubles(memory.tensors[i]);
    return loaded;
  }

  /// What is said when the checkpoint does not fit.
  std::string refusal(const ModelConfig& config, const InitialWeightsOptions& options = {}) {
    try {
      (void)load(config, options);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::usage) << error.what();
      return error.what();
    }
    return "";
  }

  /// All tensors of `loaded` are those of the checkpoint, but for names that `differs` names.
  void expect_copied(const Values& loaded, const std::function<bool(const std::string&)>& differs) {
    for (const auto& [name, values] : loaded) {
      if (differs(name)) continue;
      EXPECT_EQ(values, source_.at(name)) << name;
    }
  }
  static bool is_fresh(const std::vector<double>& values) {
    return std::all_of(values.begin(), values.end(), [](double value) { return value == kFresh; });
  }

  std::unique_ptr<Device> device_ = make_cpu_device();
  TemporaryFolder folder_;
  Values source_;
  std::vector<std::unique_ptr<TableMemory>> averages_;
  std::vector<std::string> report_;
  bool upcycled_ = false;
};

void expect_says(const std::string& said, const std::vector<std::string>& parts) {
  for (const std::string& part : parts) EXPECT_NE(said.find(part), std::string::npos) << part << "\nin: " << said;
}

bool none(const std::string& /*name*/) { return false; }
bool of_head(const std::string& name) { return name.starts_with("head/"); }

TEST_F(InitialWeightsTest, TheSameModelTakesEveryTensorBitForBit) {
  save(small_config());
  expect_copied(load(small_config()), none);
  EXPECT_EQ(report_, std::vector<std::string>{text("copied ", source_.size(), " tensors")});
  EXPECT_FALSE(upcycled_);
}

TEST_F(InitialWeightsTest, OtherClassesKeepTheFreshHead) {
  save(small_config());
  ModelConfig config = small_config();
  config.classes = 9;
  const Values loaded = load(config);
  expect_copied(loaded, of_head);
  EXPECT_TRUE(is_fresh(loaded.at("head/kernel")) && is_fresh(loaded.at("head/bias")));
  EXPECT_EQ(report_[1], "fresh: head/kernel, head/bias");
  EXPECT_EQ(report_[2], "dropped: head/bias, head/kernel");
}

TEST_F(InitialWeightsTest, ANewHeadIsKeptThoughTheOldOneFits) {
  save(small_config());
  const Values loaded = load(small_config(), {.new_head = true, .average = false});
  expect_copied(loaded, of_head);
  EXPECT_TRUE(is_fresh(loaded.at("head/kernel")) && is_fresh(loaded.at("head/bias")));
}

TEST_F(InitialWeightsTest, PositionsOfAnotherResolutionAreZoomed) {
  save(small_config());
  ModelConfig config = small_config();
  config.image_height = 9;
  config.image_width = 12;
  const std::string name = "Encoder/posembed_input/pos_embedding";
  const Values loaded = load(config);
  expect_copied(loaded, [&](const std::string& other) { return other == name; });
  const auto size = static_cast<std::size_t>(10 * config.width);
  std::vector<double> wanted = vit_zoom(source_.at(name), 5, std::vector<double>(size, kFresh), 10);
  for (double& value : wanted) value = static_cast<double>(static_cast<float>(value));
  EXPECT_EQ(loaded.at(name), wanted);
  EXPECT_EQ(report_[1], "resized " + name + " from 5 to 10 tokens");
  config.image_height = 6;  // 2 x 3 patches
  expect_says(refusal(config), {"the 7 position embeddings of the target cannot be resized"});
}

TEST_F(InitialWeightsTest, PreLogitsAreTakenWithTheSameWidthAndDroppedWithout) {
  ModelConfig with = small_config();
  with.representation = 6;
  save(with);
  expect_copied(load(with), none);
  const std::string said = refusal(small_config());  // the head reads another width
  expect_says(said, {"parameters/head/kernel is [6, 5]", "needs [8, 5]", "--new-head"});
  const Values loaded = load(small_config(), {.new_head = true, .average = false});
  expect_copied(loaded, of_head);
  EXPECT_EQ(report_.back(), "dropped: head/bias, head/kernel, pre_logits/bias, pre_logits/kernel");
  ModelConfig wider = with;
  wider.representation = 7;
  expect_says(refusal(wider, {.new_head = true, .average = false}),
              {"parameters/pre_logits/kernel is [8, 6]", "needs [8, 7]", "--representation"});
}

TEST_F(InitialWeightsTest, ARepresentationThatTheCheckpointHasNotIsMissing) {
  save(small_config());
  ModelConfig with = small_config();
  with.representation = 6;
  expect_says(refusal(with, {.new_head = true, .average = false}),
              {"has no tensor parameters/pre_logits/kernel", "[8, 6]", "--representation"});
}

TEST_F(InitialWeightsTest, EveryExpertIsTheDenseMlpAndTheRouterStaysFresh) {
  ModelConfig dense = small_config();
  dense.moe_blocks = {};
  save(dense);
  const ModelConfig sparse = small_config();
  const Values loaded = load(sparse);
  const std::string block = "Encoder/encoderblock_1/";
  expect_copied(loaded, [&](const std::string& name) { return name.starts_with(block + "Moe/"); });
  for (const char* tensor : {"Dense_0/kernel", "Dense_0/bias", "Dense_1/kernel", "Dense_1/bias"}) {
    const std::vector<double>& mlp = source_.at(block + "Mlp/" + tensor);
    std::vector<double> tiled;
    for (int expert = 0; expert < 4; ++expert) tiled.insert(tiled.end(), mlp.begin(), mlp.end());
    EXPECT_EQ(loaded.at(block + "Moe/Mlp/" + tensor), tiled) << tensor;
  }
  EXPECT_TRUE(is_fresh(loaded.at(block + "Moe/Router/dense/kernel")));
  EXPECT_TRUE(upcycled_);
  EXPECT_EQ(report_[1], "tiled into all experts: " + block + "Moe/Mlp/Dense_0/kernel, " + block +
                            "Moe/Mlp/Dense_0/bias, " + block + "Moe/Mlp/Dense_1/kernel, " + block +
                            "Moe/Mlp/Dense_1/bias");
  EXPECT_EQ(report_[2], "fresh: " + block + "Moe/Router/dense/kernel");
  ModelConfig wider = sparse;
  wider.mlp_width = 16;
  expect_says(refusal(wider), {"parameters/Encoder/encoderblock_0/Mlp/Dense_0/kernel is [8, 12]", "needs [8, 16]"});
}

TEST_F(InitialWeightsTest, ARankTakesItsOwnExperts) {
  save(small_config());
  const std::string name = "Encoder/encoderblock_1/Moe/Mlp/Dense_1/kernel";
  const Values loaded = load(small_config(), {}, 2, 2);
  const std::vector<double>& all = source_.at(name);
  EXPECT_EQ(loaded.at(name), std::vector<double>(all.begin() + std::ssize(all) / 2, all.end()));
  EXPECT_EQ(loaded.at("head/bias"), source_.at("head/bias"));
}

TEST_F(InitialWeightsTest, TheAverageIsTakenInstead) {
  save(small_config(), Dtype::f32, "average/");
  const Values loaded = load(small_config(), {.new_head = false, .average = true});
  expect_copied(loaded, none);  // source_ holds the average: half a unit more
  EXPECT_EQ(loaded.at("head/bias")[0], load(small_config()).at("head/bias")[0] + 0.5);
}

TEST_F(InitialWeightsTest, WithoutAnAverageThatIsRefused) {
  save(small_config());
  expect_says(refusal(small_config(), {.new_head = false, .average = true}),
              {"holds no average/...", "kept no running average", "Start without --init-average"});
}

TEST_F(InitialWeightsTest, FloatsOfAnotherWidthAreConverted) {
  save(small_config(), Dtype::f64);
  expect_copied(load(small_config()), none);
}

TEST_F(InitialWeightsTest, WhatDoesNotFitIsNamedWithBothShapesAndWhatToTry) {
  save(small_config());
  ModelConfig config = small_config();
  config.experts = 8;
  expect_says(refusal(config), {"parameters/Encoder/encoderblock_1/Moe/Router/dense/kernel is [8, 4]",
                                "the model of this run needs [8, 8]", "--experts"});
  config = small_config();
  config.channels = 3;
  expect_says(refusal(config), {"parameters/embedding/kernel is [3, 4, 2, 8]", "needs [3, 4, 3, 8]", "--channels"});
  config = small_config();
  config.width = 16;
  expect_says(refusal(config), {"parameters/embedding/kernel is [3, 4, 2, 8]", "needs [3, 4, 2, 16]"});
  config = small_config();
  config.blocks = 3;
  expect_says(refusal(config), {"has no tensor parameters/Encoder/encoderblock_2/LayerNorm_0/scale", "--blocks"});
  config = small_config();
  config.moe_blocks = {};
  expect_says(refusal(config), {"has no tensor parameters/Encoder/encoderblock_1/Mlp/Dense_0/kernel", "--moe"});
}

TEST_F(InitialWeightsTest, WhatIsLeftInTheCheckpointIsNamed) {
  save(small_config());
  ModelConfig config = small_config();
  config.blocks = 1;
  config.moe_blocks = {};
  expect_says(refusal(config), {"has parameters/Encoder/encoderblock_1/LayerNorm_0/bias [8]",
                                "the model of this run has no place for it", "--blocks"});
}

}  // namespace
}  // namespace vitrail
