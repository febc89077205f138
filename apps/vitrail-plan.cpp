// vitrail-plan: what a model and its training cost, before anything is allocated.

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <iostream>
#include <string>

#include "apps/options.hpp"
#include "apps/progress.hpp"
#include "apps/run_options.hpp"
#include "apps/version.hpp"
#include "base/log.hpp"
#include "model/params.hpp"
#include "model/planner.hpp"
#include "train/presets.hpp"

namespace vitrail {
namespace {

constexpr const char* kProgram = "vitrail-plan";
constexpr char kManual[] =
    "vitrail-plan: what a model and its training cost, before anything is allocated.\n"
    "\n"
    "  vitrail-plan models            all presets: parameters, FLOPs of an image and of the training\n"
    "  vitrail-plan model PRESET      one of them, tensor by tensor, also with other options\n"
    "\n"
    "Both print tables or, with --json, one JSON object. vitrail-plan COMMAND --help tells more;\n"
    "vitrail-plan --version says which version this is.\n";
constexpr char kModelManual[] =
    "vitrail-plan model PRESET : the tensors of a model and how they start, its parameters, the FLOPs of\n"
    "an image's forward pass (two per multiply-add) and of the whole training (3 x forward x images).\n"
    "\n"
    "  vitrail-plan model v-moe-h14-last5\n"
    "  vitrail-plan model v-moe-h14-last5 --selected 1 --json\n"
    "  vitrail-plan model vit-b16 --classes 1000 --epochs 90 --examples 1281167\n"
    "\n"
    "Active parameters are those that one token meets: the dense ones, and K of E experts in every sparse\n"
    "block (experts-choice: the mean of them; soft: all).\n"
    "\n"
    "Exit codes: 0 planned; 2 no such preset or option, or a model that cannot be.";
constexpr char kModelsManual[] =
    "vitrail-plan models : all presets in one table. Parameters and active parameters (those that one token\n"
    "meets) in millions, forward GFLOPs of one image, ExaFLOPs of the training (3 x forward x images).\n"
    "\n"
    "Exit codes: 0 done; 2 no such option.";

/// A preset, or what options have made of it.
struct Planned {
  std::string preset;
  RunConfig run;
  std::int64_t examples = 0;  ///< images of an epoch
  ModelPlan model;

  [[nodiscard]] double images() const {
    if (run.steps > 0) return static_cast<double>(run.steps) * static_cast<double>(run.batch);
    return run.epochs * static_cast<double>(examples);
  }
  [[nodiscard]] double exaflops() const { return training_flops(model, images()) / 1e18; }
  [[nodiscard]] bool sparse() const { return !run.model.moe_blocks.empty(); }
};

Planned plan(std::string preset, const RunConfig& run, std::int64_t examples) {
  VITRAIL_EXPECT(examples > 0, ExitCode::usage, text("--examples ", examples), "an epoch has images", "");
  (void)total_steps(run, examples);  // refuses a run without a length
  return {std::move(preset), run, examples, plan_model(run.model)};
}

// --- texts -----------------------------------------------------------------------------------------------------------

/// 86567656 as 86,567,656.
std::string grouped(std::int64_t number) {
  std::string digits = std::to_string(number);
  for (auto at = std::ssize(digits) - 3; at > 0; at -= 3) digits.insert(static_cast<std::size_t>(at), ",");
  return digits;
}

/// Two decimals, or two digits where these are all zero.
std::string amount(double value) {
  char shown[64];
  std::snprintf(shown, sizeof shown, value < 0.01 ? "%.2g" : "%.2f", value);
  return shown;
}

std::string left(const std::string& word, std::size_t width) {
  return word + std::string(width > word.size() ? width - word.size() : 0, ' ');
}
std::string right(const std::string& word, std::size_t width) {
  return std::string(width > word.size() ? width - word.size() : 0, ' ') + word;
}

std::string kind_of(const ParameterSpec& spec) { return spec.expert ? "expert" : "dense"; }

const char* initializer_name(Initializer initializer) {
  switch (initializer) {
    case Initializer::constant:
      return "constant";
    case Initializer::normal:
      return "normal";
    case Initializer::lecun_normal:
      return "lecun_normal";
    case Initializer::xavier_uniform:
      return "xavier_uniform";
  }
  return "";
}

/// "constant 0", "normal 0.02", "lecun_normal 768", "xavier_uniform 768 3072".
std::string start_of(const ParameterSpec& spec) {
  const std::string name = initializer_name(spec.initializer);
  if (spec.initializer == Initializer::lecun_normal) return text(name, " ", spec.fan_in);
  if (spec.initializer == Initializer::xavier_uniform) return text(name, " ", spec.fan_in, " ", spec.fan_out);
  return text(name, " ", spec.value);
}

/// "12 blocks, 6 of them with 32 experts, 2 per token (blocks 1 3 5 7 9 11)".
std::string blocks_of(const ModelConfig& m) {
  if (m.moe_blocks.empty()) return text(m.blocks, " blocks, none of them sparse");
  std::string places;
  for (const std::int64_t block : m.moe_blocks) places += text(places.empty() ? "" : " ", block);
  const std::string choices = m.router.kind == RouterKind::top_k ? text(", ", m.router.selected, " per token") : "";
  return text(m.blocks, " blocks, ", m.moe_blocks.size(), " of them with ", m.experts, " experts", choices, " (blocks ",
              places, ")");
}

// --- model -----------------------------------------------------------------------------------------------------------

Json totals_json(const Planned& p) {
  Json places = Json::array();
  for (const std::int64_t block : p.run.model.moe_blocks) places.push_back(block);
  return Json::object()
      .set("preset", p.preset)
      .set("blocks", p.run.model.blocks)
      .set("moe_blocks", std::move(places))
      .set("experts", p.sparse() ? p.run.model.experts : 0)
      .set("tokens", p.run.model.tokens())
      .set("parameters", p.model.parameters)
      .set("dense_parameters", p.model.dense_parameters)
      .set("expert_parameters", p.model.expert_parameters)
      .set("active_parameters", p.model.active_parameters)
      .set("forward_gflops_per_image", p.model.forward_flops / 1e9)
      .set("examples", p.examples)
      .set("training_images", p.images())
      .set("training_steps", total_steps(p.run, p.examples))
      .set("training_exaflops", p.exaflops());
}

Json tensors_json(const std::vector<ParameterSpec>& table) {
  Json tensors = Json::array();
  for (const ParameterSpec& spec : table) {
    Json shape = Json::array();
    for (const std::int64_t length : spec.shape.lengths()) shape.push_back(length);
    tensors.push_back(Json::object()
                          .set("name", spec.name)
                          .set("shape", std::move(shape))
                          .set("parameters", spec.shape.elements())
                          .set("kind", kind_of(spec))
                          .set("initializer", initializer_name(spec.initializer))
                          .set("value", spec.value)
                          .set("fan_in", spec.fan_in)
                          .set("fan_out", spec.fan_out));
  }
  return tensors;
}

void print_tensors(const Log& log, const std::vector<ParameterSpec>& table) {
  std::size_t names = 0;
  std::size_t shapes = 0;
  for (const ParameterSpec& spec : table) {
    names = std::max(names, spec.name.size());
    shapes = std::max(shapes, spec.shape.str().size());
  }
  log.info(left("tensor", names), "  ", left("shape", shapes), "  ", right("parameters", 14), "  kind    at the start");
  for (const ParameterSpec& spec : table) {
    log.info(left(spec.name, names), "  ", left(spec.shape.str(), shapes), "  ",
             right(grouped(spec.shape.elements()), 14), "  ", left(kind_of(spec), 6), "  ", start_of(spec));
  }
}

void print_totals(const Log& log, const Planned& p) {
  const ModelConfig& m = p.run.model;
  const auto line = [&](const char* what, const std::string& value) { log.info(left(what, 28), right(value, 18)); };
  log.info("");
  line("dense parameters", grouped(p.model.dense_parameters));
  line("expert parameters", grouped(p.model.expert_parameters));
  line("parameters", grouped(p.model.parameters));
  line("active parameters", grouped(p.model.active_parameters));
  if (p.sparse()) {
    line("tokens of a routing group", grouped(m.group_tokens()));
    line("slots per expert and group", grouped(m.slots()));
  }
  line("forward GFLOPs of an image", amount(p.model.forward_flops / 1e9));
  line("images of the training", grouped(std::llround(p.images())));
  line("steps of the training", grouped(total_steps(p.run, p.examples)));
  line("ExaFLOPs of the training", amount(p.exaflops()));
}

int plan_one(int argc, const char* const* argv) {
  RunConfig run;
  RunOptionTexts texts;
  std::vector<std::string> presets;
  std::optional<std::int64_t> examples;
  bool json = false;
  Options options("vitrail-plan model", kModelManual);
  options.add("preset", presets, "PRESET", "what is planned, also without --preset").choices(preset_names());
  options.positional("preset");
  options.add("json", json, "", "print one JSON object, and nothing else");
  options.add("examples", examples, "N", "images of an epoch; else those of the data that the preset was made for");
  add_layout_options(options, run);
  add_training_options(options, run);
  add_model_options(options, run, texts);
  if (!options.parse(argc, argv)) return 0;
  VITRAIL_EXPECT(options.given("preset"), ExitCode::usage, "no preset is named", "there are many models",
                 "vitrail-plan models lists them");
  apply_run_options(options, run, texts);
  VITRAIL_EXPECT(presets.size() == 1, ExitCode::usage, text(presets.size(), " presets are named"), "one is planned",
                 "vitrail-plan models shows all");
  const Planned planned = plan(presets[0], run, examples.value_or(preset_examples(presets[0])));
  const std::vector<ParameterSpec> table = parameter_table(run.model);
  const Log log(kProgram);
  if (json) {
    log.info(totals_json(planned).set("tensors", tensors_json(table)).dump());
    return 0;
  }
  log.info(planned.preset, ": ", run.model.tokens(), " tokens an image; ", blocks_of(run.model), "\n");
  print_tensors(log, table);
  print_totals(log, planned);
  return 0;
}

// --- models ----------------------------------------------------------------------------------------------------------

int plan_all(int argc, const char* const* argv) {
  bool json = false;
  Options options("vitrail-plan models", kModelsManual);
  options.add("json", json, "", "print one JSON object, and nothing else");
  if (!options.parse(argc, argv)) return 0;
  options.apply();
  const Log log(kProgram);
  Json all = Json::array();
  if (!json) {
    log.info(left("preset", 38), right("sparse blocks", 14), right("experts", 9), right("parameters", 12),
             right("active", 9), right("GFLOPs", 9), right("ExaFLOPs", 10));
  }
  for (const std::string& name : preset_names()) {
    RunConfig run = preset(name);
    resolve(run);
    const Planned p = plan(name, run, preset_examples(name));
    if (json) {
      all.push_back(totals_json(p));
      continue;
    }
    const auto millions = [](std::int64_t count) { return fixed(static_cast<double>(count) / 1e6, 1); };
    log.info(left(name, 38), right(text(run.model.moe_blocks.size(), " of ", run.model.blocks), 14),
             right(p.sparse() ? text(run.model.experts) : "-", 9), right(millions(p.model.parameters), 12),
             right(millions(p.model.active_parameters), 9), right(amount(p.model.forward_flops / 1e9), 9),
             right(amount(p.exaflops()), 10));
  }
  if (json) log.info(Json::object().set("models", std::move(all)).dump());
  return 0;
}

int run_command(int argc, const char* const* argv) {
  const std::string command = argc > 1 ? argv[1] : "";
  if (command == "model") return plan_one(argc - 1, argv + 1);
  if (command == "models") return plan_all(argc - 1, argv + 1);
  if (command == "--help" || command == "-h") {
    std::cout << kManual;
    return 0;
  }
  if (command == "--version") {
    std::cout << version_line(kProgram);
    return 0;
  }
  fail(ExitCode::usage,
       {command.empty() ? "no command is given" : "'" + command + "' is not a command",
        "the commands are model and models", did_you_mean(command, std::vector<std::string>{"model", "models"})});
}

}  // namespace
}  // namespace vitrail

int main(int argc, char** argv) {
  return vitrail::run_guarded(vitrail::kProgram, [&] { return vitrail::run_command(argc, argv); });
}
