#pragma once
// The options of vitrail-bench's commands that name a model, and the sizes of known models.

#include <string>
#include <vector>

#include "apps/machine.hpp"
#include "apps/run_options.hpp"

namespace vitrail {

/// What every command of vitrail-bench is told.
struct BenchSettings {
  RunConfig run;
  RunOptionTexts texts;
  MachineOptions machine;
  std::string model;     ///< name of known sizes; empty: those of the preset
  bool json = false;     ///< one object a line instead of tables
  double seconds = 0.3;  ///< budget of one measurement
};

/// The --model, or else the --preset.
std::string model_name(const BenchSettings& settings);

/// Names for --model.
std::vector<std::string> known_models();

/// Adds --preset, --model, --json, and the model's and the layout's options.
void add_bench_model_options(Options& options, BenchSettings& settings);
/// Adds --json and --seconds.
void add_bench_options(Options& options, BenchSettings& settings);

/// After parse(): preset, then --model, then the command line, into settings.run. Error (usage) unless the back end and
/// the numbers make sense.
void apply_bench_options(Options& options, BenchSettings& settings);

/// Error (usage) unless a measurement's budget and the threads are positive.
void check_bench_options(const BenchSettings& settings);

}  // namespace vitrail
