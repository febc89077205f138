#pragma once
// What the tests of `vitrail-checkpoint convert` and `upcycle` write, run and read.

#include <string>
#include <vector>

#include "apps/model_target.hpp"
#include "apps/run_options.hpp"
#include "base/error.hpp"
#include "model/moe_blocks.hpp"
#include "tests/convert/memory_tensors.hpp"
#include "train/checkpoint.hpp"

namespace vitrail::testing {

using Command = int (*)(int, char**);

/// The words behind the name of a command.
inline int run_command(Command command, std::vector<std::string> words) {
  words.insert(words.begin(), "command");
  std::vector<char*> argv;
  argv.reserve(words.size());
  for (std::string& word : words) argv.push_back(word.data());
  return command(static_cast<int>(argv.size()), argv.data());
}

/// A model's settings as `convert` makes them.
inline ModelSettings settings_of_model(const ModelConfig& model) {
  RunConfig run;
  RunOptionTexts texts;
  Options options("test", "");
  add_model_options(options, run, texts);
  const char* const program = "test";
  (void)options.parse(1, &program);
  run.model = model;
  run.moe = name_of_moe_blocks(model.moe_blocks, model.blocks);
  apply_on_top_of(run, options, texts);
  return {run.model, run_settings(options), ""};
}

/// Writes a run whose parameters are those of add_model().
inline void write_run(const std::filesystem::path& run, const ModelConfig& model, std::int64_t step = 0) {
  MemorySource parameters;
  add_model(parameters, model);
  (void)write_model({.path = run}, settings_of_model(model), step, parameters);
}

/// The model that vitrail-eval makes of a checkpoint's settings.
inline ModelConfig model_of_settings(const Json& settings) {
  RunConfig run;
  RunOptionTexts texts;
  Options options("test", "");
  add_model_options(options, run, texts);
  add_layout_options(options, run);
  const char* const program = "test";
  (void)options.parse(1, &program);
  options.read_settings(settings_of(settings));
  apply_run_options(options, run, texts);
  return run.model;
}

inline std::vector<float> parameter(const CheckpointReader& reader, const std::string& name) {
  const Shape shape = reader.shape("parameters/" + name);
  std::vector<float> values(static_cast<std::size_t>(shape.elements()));
  reader.read("parameters/" + name, 0, {values.data(), {shape.elements()}, Dtype::f32});
  return values;
}

}  // namespace vitrail::testing
