#pragma once
// A model is written into a file of any format, or as the first checkpoint of a run.

#include <cstdint>
#include <filesystem>

#include "apps/model_file.hpp"

namespace vitrail {

struct ModelTarget {
  std::filesystem::path path;  ///< a file; for flax PREFIX or PREFIX.index; for vitrail a run directory
  ModelFormat format = ModelFormat::vitrail;
  bool overwrite = false;
  std::int64_t files = 1;  ///< data files of vitrail and flax
};

/// Error (usage) when there is something at a target that may not be overwritten: told before the work.
void expect_free(const ModelTarget& target);

/// The model, as settings.
struct ModelSettings {
  ModelConfig model;
  Json settings;            ///< what a checkpoint remembers of it; also stored in safetensors files
  std::string config_file;  ///< the same as a configuration file
};

/// Writes the tensors of the model's table, which `parameters` gives under its names; holds one dense tensor or one
/// expert's matrix in memory, twice. vitrail: RUN/checkpoints/step-N, with bfloat16 widened to f32, which is exact,
/// and RUN/model.cfg. Returns the path of what is there now. Error (checkpoint) when it cannot be written; (usage) for
/// a model that the format has no words for.
std::filesystem::path write_model(const ModelTarget& target, const ModelSettings& model, std::int64_t step,
                                  TensorSource& parameters);

}  // namespace vitrail
