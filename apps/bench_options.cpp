#include "apps/bench_options.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

#include "train/presets.hpp"

namespace vitrail {

namespace {

struct KnownModel {
  std::string name;
  std::vector<std::pair<std::string, std::string>> settings;
};

/// The paper's S/32, B/16, L/16 and part of 15B (Riquelme et al. 2021, table of sizes), Every-2 with 8 experts, for
/// 1000 classes, with a batch that is one leaf: the sizes alone, no training recipe.
std::vector<KnownModel> models() {
  const auto sizes = [](std::string name, std::string patch, std::string width, std::string mlp, std::string heads,
                        std::string blocks, std::string batch, std::string moe, std::string experts) {
    return KnownModel{std::move(name),
                      {{"image-height", "224"},
                       {"image-width", "224"},
                       {"channels", "3"},
                       {"classes", "1000"},
                       {"representation", "0"},
                       {"experts-alike", "true"},
                       {"patch-rows", patch},
                       {"patch-columns", patch},
                       {"width", std::move(width)},
                       {"mlp-width", std::move(mlp)},
                       {"heads", std::move(heads)},
                       {"blocks", std::move(blocks)},
                       {"moe", std::move(moe)},
                       {"experts", std::move(experts)},
                       {"batch", batch},
                       {"leaf-images", batch}}};
  };
  return {sizes("s32", "32", "512", "2048", "8", "8", "16", "every-2", "8"),
          sizes("s32-e32", "32", "512", "2048", "8", "8", "16", "every-2", "32"),
          sizes("s32-dense", "32", "512", "2048", "8", "8", "16", "none", "8"),
          sizes("b16", "16", "768", "3072", "12", "12", "8", "every-2", "8"),
          sizes("b16-dense", "16", "768", "3072", "12", "12", "8", "none", "8"),
          sizes("l16", "16", "1024", "4096", "16", "24", "8", "every-2", "8"),
          // The blocks of V-MoE-15B, but 8 of its 48, and 16 of its 32 experts: what one GPU can hold.
          sizes("15b-stack", "14", "1408", "6400", "16", "8", "8", "every-2", "16")};
}

}  // namespace

std::string model_name(const BenchSettings& settings) {
  return settings.model.empty() ? settings.texts.preset : settings.model;
}

std::vector<std::string> known_models() {
  std::vector<std::string> names;
  for (const KnownModel& model : models()) names.push_back(model.name);
  return names;
}

void add_bench_options(Options& options, BenchSettings& settings) {
  options.section("Measurement");
  options.add("json", settings.json, "", "print one JSON object a line, and nothing else").only_on_command_line();
  options.add("seconds", settings.seconds, "S", "time budget of one measurement").only_on_command_line();
}

void add_bench_model_options(Options& options, BenchSettings& settings) {
  options.section("What is measured");
  options.add("preset", settings.texts.preset, "NAME", "starting point of all settings")
      .choices(preset_names())
      .only_on_command_line();
  options.add("model", settings.model, "NAME", "sizes of a known model instead of the preset's")
      .choices(known_models())
      .only_on_command_line();
  add_bench_options(options, settings);
  add_layout_options(options, settings.run);
  add_machine_options(options, settings.machine);
  add_model_options(options, settings.run, settings.texts);
}

void apply_bench_options(Options& options, BenchSettings& settings) {
  if (const auto name = options.given("model")) {
    const auto all = models();
    const auto found = std::find_if(all.begin(), all.end(), [&](const KnownModel& one) { return one.name == *name; });
    if (found != all.end()) {  // an unknown name is refused by apply(), which knows the nearest
      std::vector<Setting> sizes;
      for (const auto& [option, value] : found->settings) sizes.push_back({option, {value}, Effect::none});
      options.read_settings(sizes);
    }
  }
  apply_run_options(options, settings.run, settings.texts);
  check_bench_options(settings);
}

void check_bench_options(const BenchSettings& settings) {
  VITRAIL_EXPECT(std::isfinite(settings.seconds) && settings.seconds > 0, ExitCode::usage,
                 text("--seconds ", settings.seconds), "a measurement takes time", "");
  VITRAIL_EXPECT(settings.run.threads >= 1 && settings.run.threads <= 1024, ExitCode::usage,
                 text("--threads ", settings.run.threads), "every rank needs 1 to 1024 threads", "");
}

}  // namespace vitrail
