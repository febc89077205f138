#include "apps/checkpoint_upcycle.hpp"

#include <iostream>

#include "apps/conversion.hpp"
#include "train/starting_weights.hpp"

namespace vitrail {

namespace {

constexpr const char* kManual =
    "vitrail-checkpoint upcycle FROM TO: makes a V-MoE of a dense vision transformer.\n"
    "\n"
    "  vitrail-checkpoint upcycle B_16.npz runs/moe --moe 6-11 --experts 32 --router experts-choice \\\n"
    "      --capacity-factor 2 --normalize-gates              as in \"Sparse Upcycling\" (arXiv 2212.05055)\n"
    "  vitrail-checkpoint upcycle runs/dense runs/moe --moe every-2 --experts 8 --selected 2 --normalize-gates\n"
    "\n"
    "FROM is of any format that `convert` reads. The experts of a sparse block are copies of its dense MLP; routers "
    "are\n"
    "fresh, by --seed; position embeddings are resized when --image-height and --image-width are others; the head is\n"
    "fresh when --classes is another. The parameters are those with which vitrail-train --init-from FROM with the "
    "same\n"
    "options and seed begins. Options that are left out are as FROM has it.\n"
    "\n"
    "Exit codes: 0 done; 2 usage, or a dense model that does not fit; 4 a file cannot be read or written.";

}  // namespace

int checkpoint_upcycle(int argc, char** argv) {
  ConversionOptions conversion;
  RunConfig run;
  RunOptionTexts texts;
  std::int64_t seed = 0;
  bool new_head = false;
  Options options("vitrail-checkpoint upcycle", kManual);
  add_conversion_options(options, conversion);
  options.section("Initial values");
  options.add("seed", seed, "N", "of routers and of a fresh head").only_on_command_line();
  options.add("new-head", new_head, "", "a fresh head; always so when the number of classes differs")
      .only_on_command_line();
  add_model_options(options, run, texts);
  add_loss_option(options, run);
  if (!options.parse(argc, argv)) return 0;
  options.apply();
  check(conversion);
  const ModelTarget target = target_of(conversion);
  expect_free(target);
  // The size of the images is that of the new model.
  ModelHints hints = hints_of(options);
  hints.image_height.reset();
  hints.image_width.reset();
  const ModelFile file = open_source(conversion, hints);
  apply_model_options(file, options, run, texts);
  const std::vector<ParameterSpec> table = parameter_table(run.model);
  const InitialWeights weights(table, file.parameters(), file.name(), new_head);
  VITRAIL_EXPECT(weights.upcycled(), ExitCode::usage, text("with --moe ", run.moe, " no block is upcycled"),
                 text("of ", file.name(), " every block is as it would be"),
                 "Say which blocks: --moe 6-11, last-2 ...");
  for (const std::string& line : file.report()) std::cout << line << "\n";
  for (const std::string& line : weights.report()) std::cout << "          " << line << "\n";
  if (!run.model.router.normalize_gates && run.model.router.kind != RouterKind::soft) {
    std::cout << "          with --normalize-gates the model would begin like the dense one\n";
  }
  StartingWeights parameters(table, weights, static_cast<std::uint64_t>(seed), run.model.experts_alike);
  report_target(target, write_model(target, model_settings(run, options), 0, parameters));
  return 0;
}

}  // namespace vitrail
