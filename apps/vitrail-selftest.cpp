// vitrail-selftest: shows that this build computes what it should.

#include <cstdio>
#include <cstring>
#include <iostream>

#include "apps/golden.hpp"
#include "apps/layouts.hpp"
#include "apps/options.hpp"
#include "apps/run_start.hpp"
#include "apps/version.hpp"

namespace vitrail {
namespace {

constexpr char kManual[] =
    "vitrail-selftest: shows that this build computes what it should.\n"
    "\n"
    "  vitrail-selftest golden FILE...    compares with results of the original implementation\n"
    "  vitrail-selftest layouts           trains on many layouts of ranks: all must end in the same bits\n"
    "\n"
    "vitrail-selftest COMMAND --help tells more; vitrail-selftest --version says which version this is.\n";

int run_golden_command(int argc, const char* const* argv) {
  std::vector<std::filesystem::path> files;
  std::string backend = "reference";
  std::string precision = "f32";
  int threads = 1;
  MachineOptions machine;
  Options options("vitrail-selftest golden",
                  "vitrail-selftest golden FILE... : runs golden files (results of the original V-MoE implementation)\n"
                  "and prints, for every quantity, the largest error as a part of its scale, the tolerance and the\n"
                  "verdict.\n"
                  "\n"
                  "  vitrail-selftest golden tests/golden/*.h5 --backend cpu\n"
                  "  vitrail-selftest golden tests/golden/model_*.h5 --backend cuda --precision bf16\n"
                  "\n"
                  "Exit codes: 0 all pass; 5 something differs; 3 a file cannot be read; 1 a file needs what is not\n"
                  "built (UNSUPPORTED).");
  options.add("files", files, "FILE...", "golden files, also without --files").required().only_on_command_line();
  options.positional("files");
  options.add("backend", backend, "NAME", "what computes").choices({"reference", "cpu", "cuda"});
  options.add("precision", precision, "NAME", "of matrix products on cpu and cuda").choices({"f32", "bf16"});
  options.add("threads", threads, "N", "threads of the cpu back end");
  add_gpu_option(options, machine);
  if (!options.parse(argc, argv)) return 0;
  options.apply();

  const LocalMachine local = make_local_machine(backend, precision, threads, machine);
  GoldenReport report(stdout);
  run_golden({*local.ops, *local.device, local.ops->precision() == Precision::bf16}, files, report);
  return static_cast<int>(report.exit_code());
}

int run_layouts_command(int argc, const char* const* argv) {
  LayoutsSettings settings;
  Options options(
      "vitrail-selftest layouts",
      "vitrail-selftest layouts: trains 20 steps on 1, 2 and 4 ranks, with experts shared out in every way,\n"
      "in one pass and in several, and after kill -9 and resumption on another layout, with 1 and with 2\n"
      "threads per rank; then 8 steps of other recipes (optimizers ...) on a few of these layouts. All weights,\n"
      "optimizer states and metrics must be the same bits; runs with other leaves or without router noise must\n"
      "differ. Takes some minutes. With --backend cuda the ranks share one GPU through host memory, and one run\n"
      "goes through NCCL.\n"
      "\n"
      "Exit codes: 0 as it should be; 5 something differs; 2 mpirun is missing.");
  options.add("data", settings.data, "PATH",
              "a folder that vitrail-pack made, of 28x28 grey images; default: made here");
  options.add("keep", settings.keep, "DIR", "keep checkpoints and logs here");
  options.add("backend", settings.backend, "NAME", "what computes").choices({"cpu", "cuda", "reference"});
  options.add("precision", settings.precision, "NAME", "of the runs on all layouts").choices({"f32", "bf16"});
  add_gpu_option(options, settings.machine);
  options.add("steps", settings.steps, "N", "steps of every run but those of other recipes");
  options.add("recipes", settings.recipes, "NAME...", "other recipes that are tried").choices(recipe_names());
  options.add("most-ranks", settings.most_ranks, "N", "leave out layouts of more; 1: without mpirun");
  options.add("mpirun", settings.mpirun, "PROGRAM", "what starts ranks: PROGRAM -np N ...");
  if (!options.parse(argc, argv)) return 0;
  options.apply();
  return run_layouts(settings);
}

int run_command(int argc, const char* const* argv) {
  const std::string command = argc > 1 ? argv[1] : "";
  if (command == "golden") return run_golden_command(argc - 1, argv + 1);
  if (command == "layouts") return run_layouts_command(argc - 1, argv + 1);
  if (command == "--help") {
    std::cout << kManual;
    return 0;
  }
  if (command == "--version") {
    std::cout << version_line("vitrail-selftest");
    return 0;
  }
  fail(ExitCode::usage, {command.empty() ? "no command is given" : "'" + command + "' is not a command",
                         "vitrail-selftest has several tests", "See vitrail-selftest --help"});
}

}  // namespace
}  // namespace vitrail

int main(int argc, char** argv) {
  return vitrail::run_guarded("vitrail-selftest", [&] { return vitrail::run_command(argc, argv); });
}
