#pragma once
// Accuracy against capacity, for several K and orders of tokens: the paper's curves of Batch Prioritized Routing.

#include <filesystem>
#include <string>
#include <vector>

#include "apps/evaluation.hpp"
#include "apps/options.hpp"

namespace vitrail {

struct SweepOptions {
  std::vector<double> capacity_table;
  bool sweep = false;
  std::vector<double> capacities{0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.8, 1, 1.05, 1.5, 2};
  std::vector<std::int64_t> selected{1, 2};
  std::vector<std::string> orders{"vanilla", "prioritized", "reversed", "random"};
  std::filesystem::path csv;  ///< RUN/sweep.csv if there is a run directory
  std::filesystem::path svg;  ///< RUN/sweep.svg
};

void add_sweep_options(Options& options, SweepOptions& sweep);

/// After options.apply(): fills in the files' names. Error (usage) for settings that cannot be evaluated.
void resolve(SweepOptions& sweep, const Options& options, const RunConfig& config);

/// --capacity-table: prints a line per capacity. Returns [{capacity_factor, slots, vanilla: metrics, prioritized:
/// ...}]. Here and below a capacity that leaves an expert without a slot is passed over with a note. Collective.
Json evaluate_capacity_table(const Bench& bench, const std::vector<double>& factors, const Log& log);

/// --sweep: evaluates every point, prints the table, writes CSV and SVG. Returns the rows of the CSV:
/// {selected, order, capacity_factor, slots, accuracy, loss, drop_rate, processed, flops_per_image, flops_relative}.
/// Where experts choose there is one curve, whose order is the router's name. Collective.
Json evaluate_sweep(const Bench& bench, const SweepOptions& sweep, const Log& log);

/// Operations of one image's forward pass with experts that work on all of their slots, E*C/S a token, also where
/// rounding made them more than K * capacity_factor. [V-MoE]
double forward_flops_with_slots(const ModelConfig& model);
/// Of the same model with dense blocks only.
double forward_flops_of_dense_twin(const ModelConfig& model);

}  // namespace vitrail
