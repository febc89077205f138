#include "apps/conversion.hpp"

#include <iostream>
#include <sstream>

#include "model/moe_blocks.hpp"

namespace vitrail {

namespace {

/// Bytes of a folder's files, or of all files that belong to one of several: PREFIX.index and PREFIX.data-...,
/// NAME-00001-of-00002.safetensors and NAME.safetensors.index.json.
std::int64_t bytes_at(const std::filesystem::path& path) {
  const bool folder = std::filesystem::is_directory(path);
  const std::filesystem::path parent = folder ? path : std::filesystem::absolute(path).parent_path();
  const std::string stem = path.stem().string();
  std::int64_t bytes = 0;
  for (const auto& entry : std::filesystem::directory_iterator(parent)) {
    const std::string name = entry.path().filename().string();
    const bool belongs = name.starts_with(stem + ".") || name.starts_with(stem + "-");
    if (entry.is_regular_file() && (folder || belongs)) bytes += static_cast<std::int64_t>(entry.file_size());
  }
  return bytes;
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
  std::ostringstream config;
  config << "# The model, for vitrail-train --config and vitrail-eval.\n";
  options.print_config(config);
  Json settings = run_settings(options);
  // Leaves hold whole routing groups.
  settings.set("leaf-images", Json::array().push_back(std::to_string(run.model.router.group_images)));
  return {run.model, settings, config.str()};
}

void report_target(const ModelTarget& target, const std::filesystem::path& written) {
  std::cout << "to        " << written.string() << " (" << name_of(target.format)
            << "): " << megabytes(bytes_at(written)) << "\n";
  if (target.format != ModelFormat::vitrail) return;
  const std::string run = target.path.string();
  std::cout << "          vitrail-train --config " << run << "/model.cfg --init-from " << run
            << " ... begins with it\n";
}

}  // namespace vitrail
