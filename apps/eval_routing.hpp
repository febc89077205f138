#pragma once
// What the routers of a checkpoint do: their decisions as a file, and what becomes of the model without them.

#include <filesystem>
#include <optional>
#include <vector>

#include "apps/evaluation.hpp"
#include "apps/options.hpp"

namespace vitrail {

struct RoutingOptions {
  std::filesystem::path dump;
  std::optional<std::int64_t> dump_images;
  bool random_each = false;
  std::filesystem::path random_csv;  ///< RUN/random.csv if there is a run directory
};

/// Adds --dump-routing, --dump-images, --random-each, --random-csv, and --random-blocks, which goes into `config`.
void add_routing_options(Options& options, RunConfig& config, RoutingOptions& routing);

/// After options.apply(): fills in the file's name. Error (usage) for settings that cannot be evaluated.
void resolve(RoutingOptions& routing, const Options& options, const RunConfig& config);

/// --random-each: one evaluation without random routers, then one per MoE block with this block's router random; prints
/// the table and writes the CSV. Returns its rows: {random_block, accuracy, loss, drop_rate, processed}, random_block
/// null in the first. Collective. (The paper's figures 28 and 29.)
Json evaluate_random_each(const Bench& bench, const RoutingOptions& routing, const Log& log);

/// --dump-routing: an evaluation as `evaluate` makes it, whose routing goes to a file (train/routing_dump.hpp) together
/// with the settings that results depend on. Collective.
Metrics evaluate_and_dump(const Bench& bench, const RoutingOptions& routing, const CheckpointReader& reader,
                          const Options& options);

}  // namespace vitrail
