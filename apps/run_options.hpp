#pragma once
// The options of a run (train/run_config.hpp), as vitrail-train, vitrail-eval and vitrail-bench share them.

#include <string>
#include <vector>

#include "apps/options.hpp"
#include "base/json.hpp"
#include "train/run_config.hpp"

namespace vitrail {

/// What the options cannot write into the struct directly.
struct RunOptionTexts {
  std::string preset = "fmnist";
  std::string config_file;
  std::string classifier, positions, router, token_order, exchange_dtype, capacity_rounding;  ///< names of enums
  std::optional<std::int64_t> capacity_slots;
};

/// Adds the options that describe the model.
void add_model_options(Options& options, RunConfig& config, RunOptionTexts& texts);
/// Adds those of optimisation and data augmentation.
void add_training_options(Options& options, RunConfig& config);
/// Adds --batch, --leaf-images, --expert-parallel, --leaves-per-pass, --recompute, --threads, --backend, --precision.
void add_layout_options(Options& options, RunConfig& config);

/// After parse(): preset, then file, then command line, into `config`; then resolve().
void apply_run_options(Options& options, RunConfig& config, RunOptionTexts& texts);
/// The same without preset and file: what is read into `options` goes on top of `config` as it is.
void apply_on_top_of(RunConfig& config, Options& options, RunOptionTexts& texts);

/// "vanilla", "prioritized" ...; and the order of a name among them.
std::vector<std::string> token_order_names();
TokenOrder token_order_of(const std::string& name);
std::string name_of(TokenOrder order);
std::string name_of(RouterKind kind);
/// By a name that the option lets through.
Classifier classifier_of(const std::string& name);
PositionEmbedding position_embedding_of(const std::string& name);

/// The settings that a checkpoint remembers: numerics, back end and layout, name -> text.
Json run_settings(const Options& options);
/// The other way: what Options::read_settings takes.
std::vector<Setting> settings_of(const Json& run_settings);
/// Error (usage) that names every numerics setting in which `now` differs from the checkpoint's.
void expect_same_numerics(const Options& options, const Json& written, const std::string& checkpoint);
/// "--backend cuda (was cpu)"; empty if the checkpoint was written by the same back end.
std::string other_backend(const Options& options, const Json& written);

}  // namespace vitrail
