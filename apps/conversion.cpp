#include "apps/conversion.hpp"

#include <algorithm>
#include <iostream>
#include <sstream>

#include "model/moe_blocks.hpp"

namespace vitrail {

namespace {

/// Is this file, beside `path`, one of those that were written?
bool belongs(const std::string& file, const std::filesystem::path& path, ModelFormat format) {
  const std::string stem = path.stem().string();
  if (file == path.filename().string()) return true;
  if (format == ModelFormat::flax) return file.starts_with(stem + ".data-");
  if (format != ModelFormat::safetensors) return false;
  return file == path.filename().string() + ".index.json" ||
         (file.starts_with(stem + "-") && file.find("-of-") != std::string::npos && file.ends_with(".safetensors"));
}

/// Bytes of what was written: a checkpoint's folder, a file, or several beside each other.
std::int64_t bytes_at(const std::filesystem::path& path, ModelFormat format) {
  const bool folder = format == ModelFormat::vitrail;
  std::int64_t bytes = 0;
  for (const auto& entry :
       std::filesystem::directory_iterator(folder ? path : std::filesystem::absolute(path).parent_path())) {
    const bool counts = folder || belongs(entry.path().filename().string(), path, format);
    if (entry.is_regular_file() && counts) bytes += static_cast<std::int64_t>(entry.file_size());
  }
  return bytes;
}

/// Leaves hold whole routing groups, and are not too small for a processor.
std::int64_t leaf_images(const ModelConfig& model) {
  const std::int64_t group = model.router.group_images;
  return group * std::max<std::int64_t>(1, 8 / group);
}

}  // namespace

void add_conversion_options(Options& options, ConversionOptions& conversion) {
  options.section("Files");
  options.add("paths", conversion.paths, "FROM TO", "what is read and what is written, also without --paths")
      .only_on_command_line();
  options.positional("paths");
  options.add("from-format", conversion.from_format, "NAME", "auto: by the name and by what is there")
      .choices(model_format_names())
      .only_on_command_line();
  options
      .add("to-format", conversion.to_format, "NAME",
           "auto: .npz, .safetensors, .index (flax), anything else a run directory (vitrail)")
      .choices(model_format_names())
      .only_on_command_line();
  options.add("average", conversion.average, "", "of a run the running average of the weights").only_on_command_line();
  options.add("files", conversion.files, "N", "data files of a run or of a flax checkpoint").only_on_command_line();
  options.add("overwrite", conversion.overwrite, "", "replace what is at TO").only_on_command_line();
}

void add_loss_option(Options& options, RunConfig& run) {
  options.section("Loss");
  options.add("loss", run.loss, "NAME", "that the model is trained with: softmax or sigmoid cross-entropy")
      .choices({"softmax", "sigmoid"})
      .effect(Effect::numerics);
}

void check(const ConversionOptions& conversion) {
  VITRAIL_EXPECT(conversion.paths.size() == 2, ExitCode::usage, text(conversion.paths.size(), " paths are given"),
                 "there are two: FROM and TO", "");
  VITRAIL_EXPECT(conversion.files >= 1 && conversion.files < 100000, ExitCode::usage,
                 text("--files ", conversion.files), "the tensors are shared out to 1 or more files", "");
}

ModelFile open_source(const ConversionOptions& conversion, const ModelHints& hints) {
  const std::filesystem::path& path = conversion.paths[0];
  return {path, format_to_read(conversion.from_format, path), conversion.average, hints};
}

ModelTarget target_of(const ConversionOptions& conversion) {
  const std::filesystem::path& path = conversion.paths[1];
  return {path, format_by_name(conversion.to_format, path), conversion.overwrite, conversion.files};
}

void apply_model_options(const ModelFile& file, Options& options, RunConfig& run, RunOptionTexts& texts) {
  run = RunConfig();
  run.model = file.shaped().model;
  run.moe = name_of_moe_blocks(run.model.moe_blocks, run.model.blocks);
  options.read_settings(settings_of(file.settings()));
  apply_on_top_of(run, options, texts);
}

ModelSettings model_settings(const RunConfig& run, const Options& options) {
  const std::string leaf = std::to_string(leaf_images(run.model));
  std::ostringstream config;
  config << "# The model, for vitrail-train --config.\nleaf-images = " << leaf << "\n";
  options.print_config(config);
  Json settings = run_settings(options);
  settings.set("leaf-images", Json::array().push_back(leaf));
  return {run.model, settings, config.str()};
}

void report_target(const ModelTarget& target, const std::filesystem::path& written) {
  std::cout << "to        " << written.string() << " (" << name_of(target.format)
            << "): " << megabytes(bytes_at(written, target.format)) << "\n";
  if (target.format != ModelFormat::vitrail) return;
  const std::string run = target.path.string();
  std::cout << "          vitrail-train --config " << run << "/model.cfg --init-from " << run
            << " ... begins with it\n";
}

}  // namespace vitrail
