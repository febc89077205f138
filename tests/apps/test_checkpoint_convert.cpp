#include <gtest/gtest.h>

#include "apps/checkpoint_convert.hpp"
#include "base/file.hpp"
#include "convert/flax_msgpack.hpp"
#include "convert/safetensors.hpp"
#include "tests/apps/converted_models.hpp"
#include "tests/convert/model_samples.hpp"
#include "tests/errors.hpp"
#include "tests/scratch_folder.hpp"
#include "train/checkpoint_stream.hpp"

namespace vitrail {
namespace {

using testing::error_of;
using testing::MemorySource;
using testing::model_of_settings;
using testing::parameter;

class Convert : public ::testing::Test {
 protected:
  [[nodiscard]] std::string at(const std::string& name) const { return (folder_.path() / name).string(); }
  /// Converts, and returns what is said.
  std::string convert(std::vector<std::string> words) {
    ::testing::internal::CaptureStdout();
    EXPECT_EQ(testing::run_command(checkpoint_convert, std::move(words)), 0);
    return ::testing::internal::GetCapturedStdout();
  }
  Error refusal(const std::vector<std::string>& words) {
    return error_of([&] { (void)testing::run_command(checkpoint_convert, words); });
  }
  /// Writes tensors as a flax checkpoint.
  void write_flax(const std::string& prefix, MemorySource& source) {
    const auto sink = create_flax(at(prefix), {source.tensors().begin(), source.tensors().end()}, 1);
    copy_tensors(source, *sink);
    sink->finish();
  }

  testing::ScratchFolder folder_;
};

void expect_says(const std::string& said, const std::string& part) {
  EXPECT_NE(said.find(part), std::string::npos) << "'" << part << "' is not in: " << said;
}

TEST_F(Convert, EveryFormatGivesTheSameBitsAgain) {
  const std::vector<ModelConfig> models = {testing::vit_sample(), testing::sparse_sample(), testing::map_sample()};
  for (const ModelConfig& model : models) {
    const std::string name = std::to_string(&model - models.data());
    testing::write_run(at("from" + name), model);
    const std::string digest = CheckpointReader(at("from" + name)).digest();
    std::vector<std::string> formats = {"safetensors", "index"};
    if (model.moe_blocks.empty()) formats.emplace_back("npz");
    std::string last = at("from" + name);
    for (const std::string& format : formats) {  // from one into the next, and back
      const std::string file = at(text("model", name, ".", format));
      convert({last, file});
      convert({file, at(name + format)});
      const CheckpointReader again(at(name + format));
      EXPECT_EQ(again.digest(), digest) << format;
      EXPECT_EQ(model_of_settings(again.info().config), model) << format;
      last = file;
    }
  }
}

TEST_F(Convert, WritesSettingsThatEvaluationUnderstands) {
  ModelConfig model = testing::sparse_sample();
  model.router.normalize_gates = true;
  model.router.group_images = 4;
  testing::write_run(at("a"), model, 7);
  const std::string said = convert({at("a"), at("a.safetensors")});
  expect_says(said, "sparse: 1-2, 4 experts");
  convert({at("a.safetensors"), at("b"), "--selected", "1"});
  const CheckpointReader reader(at("b"));
  model.router.selected = 1;
  EXPECT_EQ(model_of_settings(reader.info().config), model);
  EXPECT_EQ(reader.info().config.at("leaf-images").items().front().as_string(), "8");
  expect_says(read_file(at("b") + "/model.cfg", ExitCode::other), "\nmoe = 1-2\n");
}

TEST_F(Convert, TakesParametersAndStepOfATrainingState) {
  MemorySource model;
  add_model(model, testing::sparse_sample());
  MemorySource state;
  testing::copy_into(state, model, "params/");
  state.add("step", {}, 41.0F);
  state.add("opt_state/0/mu/head/bias", {5});
  state.add("opt_state/0/nu/head/bias", {5});
  write_flax("state", state);
  const std::string said = convert({at("state"), at("run")});
  expect_says(said, "left out  opt_state (2 tensors)");
  EXPECT_EQ(CheckpointReader(at("run")).info().step, 42);
  EXPECT_EQ(parameter(CheckpointReader(at("run")), "head/kernel"), model.values("head/kernel"));
}

TEST_F(Convert, TakesTheRunningAverageWhenAsked) {
  MemorySource model;
  add_model(model, testing::vit_sample());
  {
    CheckpointStream stream(at("a"), {3, testing::settings_of_model(testing::vit_sample()).settings, Json::object()});
    for (const char* kind : {"parameters/", "average/"}) {
      for (const TensorInfo& tensor : model.tensors()) {
        std::vector<float> values = model.values(tensor.name);
        if (std::string(kind) == "average/") values.front() = -1;
        stream.begin(kind + tensor.name, tensor.shape, Dtype::f32);
        stream.write({values.data(), {tensor.shape.elements()}, Dtype::f32});
      }
    }
    (void)stream.finish();
  }
  convert({at("a"), at("b")});
  EXPECT_EQ(parameter(CheckpointReader(at("b")), "head/bias"), model.values("head/bias"));
  convert({at("a"), at("c"), "--average"});
  EXPECT_EQ(parameter(CheckpointReader(at("c")), "head/bias").front(), -1);
  expect_says(refusal({at("b"), at("d"), "--average"}).what(), "holds no running average");
}

TEST_F(Convert, WidensBfloat16WithoutLoss) {
  MemorySource model;
  add_model(model, testing::vit_sample());
  MappedSource theirs(model, file_parts(Naming::timm, testing::vit_sample()));
  std::vector<TensorInfo> tensors(theirs.tensors().begin(), theirs.tensors().end());
  for (TensorInfo& tensor : tensors) tensor.dtype = Dtype::bf16;
  const auto sink = create_safetensors(at("half.safetensors"), tensors);
  for (const TensorInfo& tensor : theirs.tensors()) {
    std::vector<Bf16> halves;
    for (const float value : testing::read_values(theirs, tensor)) halves.push_back(to_bf16(value));
    sink->write({halves.data(), {tensor.shape.elements()}, Dtype::bf16});
  }
  sink->finish();
  convert({at("half.safetensors"), at("run"), "--heads", "2"});
  const CheckpointReader reader(at("run"));
  EXPECT_EQ(reader.dtype("parameters/head/bias"), Dtype::f32);
  std::vector<float> rounded = model.values("head/kernel");
  for (float& value : rounded) value = to_float(to_bf16(value));
  EXPECT_EQ(parameter(reader, "head/kernel"), rounded);
}

TEST_F(Convert, NeverOverwritesUnlessTold) {
  testing::write_run(at("a"), testing::vit_sample());
  testing::write_run(at("b"), testing::sparse_sample(), 9);
  for (const char* file : {"x.safetensors", "x.index", "x.npz", "x"}) {
    convert({at("a"), at(file)});
    const Error error = refusal({at("a"), at(file)});
    EXPECT_EQ(error.code(), ExitCode::usage);
    expect_says(error.what(), "--overwrite");
    convert({at("a"), at(file), "--overwrite"});
  }
  convert({at("b"), at("x"), "--overwrite"});
  EXPECT_EQ(CheckpointReader(at("x")).info().step, 9);
  EXPECT_EQ(CheckpointReader(at("x")).digest(), CheckpointReader(at("b")).digest());
  EXPECT_FALSE(std::filesystem::exists(at("x.tmp")));
}

TEST_F(Convert, RefusesWhatCannotBe) {
  testing::write_run(at("sparse"), testing::sparse_sample());
  expect_says(refusal({at("sparse"), at("a.npz")}).what(), "no names for experts");
  EXPECT_FALSE(std::filesystem::exists(at("a.npz")));
  expect_says(refusal({at("sparse"), at("b"), "--width", "16"}).what(), "Leave out the options");
  expect_says(refusal({at("sparse"), at("b"), "--moe", "none"}).what(), "Encoder/encoderblock_1/Mlp/Dense_0/kernel");
  expect_says(refusal({at("sparse")}).what(), "1 paths are given");
  expect_says(refusal({at("nothing"), at("b")}).what(), "there is no");
  EXPECT_FALSE(std::filesystem::exists(at("b")));
}

}  // namespace
}  // namespace vitrail
