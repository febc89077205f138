#include "apps/checkpoint_convert.hpp"

#include <iostream>
#include <map>

#include "apps/conversion.hpp"
#include "model/params.hpp"

namespace vitrail {

namespace {

constexpr const char* kManual =
    "vitrail-checkpoint convert FROM TO: writes a model of one format in another.\n"
    "\n"
    "  vitrail-checkpoint convert B_16.npz runs/b16              a released ViT, for --init-from and vitrail-eval\n"
    "  vitrail-checkpoint convert runs/a model.safetensors       for Python: timm's names\n"
    "  vitrail-checkpoint convert vmoe_s32_last2 runs/s32        an official V-MoE checkpoint (vmoe_s32_last2.index)\n"
    "  vitrail-checkpoint convert runs/a vmoe/ckpt_1.index --average\n"
    "\n"
    "Formats: run directories (vitrail), ViT and AugReg .npz, the official V-MoE checkpoint (flax), safetensors. The\n"
    "model is read from the shapes; what they do not say, options may: --heads, --router, --selected, --group-images "
    "...\n"
    "Only parameters are converted, no state of an optimizer. docs/checkpoints.md has names and limits.\n"
    "\n"
    "Exit codes: 0 done; 2 usage, or a model that the format has no words for; 4 a file cannot be read or written.";

/// The shapes of the file are facts; options cannot change them.
void expect_same_shapes(const ModelConfig& model, const ModelFile& file) {
  std::map<std::string, Shape> stored;
  for (const TensorInfo& tensor : file.parameters().tensors()) stored[tensor.name] = tensor.shape;
  const std::vector<ParameterSpec> table = parameter_table(model);
  for (const ParameterSpec& spec : table) {
    const auto found = stored.find(spec.name);
    const bool known = found != stored.end();
    VITRAIL_EXPECT(known && found->second == spec.shape, ExitCode::usage,
                   text("by the options ", spec.name, " would be ", spec.shape.str()),
                   text(file.name(), known ? " has " + found->second.str() : " has none"),
                   "Leave out the options that the shapes answer");
  }
  VITRAIL_EXPECT(table.size() == stored.size(), ExitCode::usage,
                 text("by the options the model has ", table.size(), " tensors"),
                 text(file.name(), " has ", stored.size()), "Leave out the options that the shapes answer");
}

}  // namespace

int checkpoint_convert(int argc, char** argv) {
  ConversionOptions conversion;
  RunConfig run;
  RunOptionTexts texts;
  Options options("vitrail-checkpoint convert", kManual);
  add_conversion_options(options, conversion);
  add_model_options(options, run, texts);
  add_loss_option(options, run);
  if (!options.parse(argc, argv)) return 0;
  options.apply();
  check(conversion);
  const ModelTarget target = target_of(conversion);
  expect_free(target);
  const ModelFile file = open_source(conversion, hints_of(options));
  apply_model_options(file, options, run, texts);
  expect_same_shapes(run.model, file);
  VITRAIL_EXPECT(target.format != ModelFormat::vitrail || file.shaped().image_is_known, ExitCode::usage,
                 text(file.name(), " has no position embeddings"), "so it does not say how large its images are",
                 "Give --positions none or sincos2d, --image-height and --image-width");
  for (const std::string& line : file.report()) std::cout << line << "\n";
  report_target(target, write_model(target, model_settings(run, options), file.step(), file.parameters()));
  return 0;
}

}  // namespace vitrail
