#pragma once
// What `vitrail-checkpoint convert` and `upcycle` have in common.

#include "apps/model_target.hpp"
#include "apps/run_options.hpp"

namespace vitrail {

/// What they are told besides the model.
struct ConversionOptions {
  std::vector<std::filesystem::path> paths;  ///< from, to
  std::string from_format = "auto";
  std::string to_format = "auto";
  bool average = false;
  bool overwrite = false;
  std::int64_t files = 1;
};

/// Adds them; the paths are the words without an option.
void add_conversion_options(Options& options, ConversionOptions& conversion);
/// The one setting of a run that belongs to a model.
void add_loss_option(Options& options, RunConfig& run);
/// Error (usage) unless there are two paths.
void check(const ConversionOptions& conversion);
ModelFile open_source(const ConversionOptions& conversion, const ModelHints& hints);
ModelTarget target_of(const ConversionOptions& conversion);

/// The model of the file with what its settings and, on top, the command line say.
void apply_model_options(const ModelFile& file, Options& options, RunConfig& run, RunOptionTexts& texts);
/// As it is written beside the parameters.
ModelSettings model_settings(const RunConfig& run, const Options& options);
/// What was written, for people.
void report_target(const ModelTarget& target, const std::filesystem::path& written);

}  // namespace vitrail
