#pragma once
// A model's parameters in a file of any format, read under the names of our table.

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "apps/options.hpp"
#include "base/json.hpp"
#include "convert/names.hpp"
#include "train/checkpoint.hpp"

namespace vitrail {

enum class ModelFormat : std::uint8_t {
  vitrail,     ///< a run directory, or one checkpoint in it
  npz,         ///< ViT, AugReg
  flax,        ///< the official V-MoE checkpoint: PREFIX.index and data files
  safetensors  ///< timm's names, and ours for what timm has not
};

/// "auto", "npz", "flax", "safetensors", "vitrail".
std::vector<std::string> model_format_names();
std::string name_of(ModelFormat format);
/// Of a file of other software. A checkpoint of ours has official names, below parameters/.
Naming naming_of(ModelFormat format);
/// By name, or for "auto" by the ending of the path: .npz, .safetensors (also .safetensors.index.json), .index; any
/// other is a run directory.
ModelFormat format_by_name(const std::string& name, const std::filesystem::path& path);
/// The format of what is to be read: by name, or for "auto" by what is at the path. Error (usage) when that is nothing
/// known.
ModelFormat format_to_read(const std::string& name, const std::filesystem::path& path);

/// Under this name the metadata of our safetensors files hold the model's settings, as a checkpoint's config does.
inline constexpr const char* kSettingsInMetadata = "vitrail-settings";

/// What --heads, --image-height, --image-width, --classifier and --positions say on the command line.
ModelHints hints_of(const Options& options);

/// Opened for reading.
class ModelFile {
 public:
  /// `hints` go before what the file says of itself. `average`: of a checkpoint the running average of the parameters.
  /// Error (checkpoint) as in convert/names.hpp; (usage) for an average that is not there.
  ModelFile(const std::filesystem::path& path, ModelFormat format, bool average, const ModelHints& hints);

  /// By the names of the table; f32, f64 or bf16.
  [[nodiscard]] TensorSource& parameters() const { return *parameters_; }
  [[nodiscard]] const ShapedModel& shaped() const { return model_.shaped; }
  /// Settings that the file remembers: a checkpoint's, or those that we wrote into a safetensors file; else none.
  [[nodiscard]] const Json& settings() const { return settings_; }
  [[nodiscard]] std::int64_t step() const { return step_; }
  [[nodiscard]] const std::string& name() const { return name_; }

  /// For people: what was found, taken, left out and assumed.
  [[nodiscard]] std::vector<std::string> report() const;

 private:
  void open(const std::filesystem::path& path);
  void read_step();

  ModelFormat format_;
  std::string name_;
  std::unique_ptr<CheckpointReader> reader_;
  std::unique_ptr<TensorSource> file_;
  NamedModel model_;
  std::unique_ptr<MappedSource> parameters_;
  Json settings_;
  std::int64_t step_ = 0;
};

/// "346.3 MB".
std::string megabytes(std::int64_t bytes);

}  // namespace vitrail
