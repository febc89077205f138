#include "apps/eval_routing.hpp"

#include "apps/csv.hpp"
#include "train/routing_dump.hpp"

namespace vitrail {

namespace {

Json row_of(const Json& random_block, const Metrics& metrics) {
  return Json::object()
      .set("random_block", random_block)
      .set("accuracy", metrics.accuracy())
      .set("loss", metrics.total_loss())
      .set("drop_rate", metrics.drop_rate())
      .set("processed", metrics.processed_rate());
}

void print_row(const Json& row, double unchanged, const Log& log) {
  const Json& block = row.at("random_block");
  char line[120];
  std::snprintf(line, sizeof line, "%12s   %6.2f %%   %+7.2f   %8.4f   %5.1f %%",
                block.is_null() ? "none" : text(block.as_integer()).c_str(), 100 * row.at("accuracy").as_real(),
                100 * (row.at("accuracy").as_real() - unchanged), row.at("loss").as_real(),
                100 * row.at("drop_rate").as_real());
  log.info(line);
}

/// Settings that results depend on, name -> texts. The batch of an evaluation is what its ranks take at once.
Json numerics_of(const Options& options) {
  Json settings = Json::object();
  for (const Setting& setting : options.settings()) {
    if (setting.effect != Effect::numerics && setting.effect != Effect::backend) continue;
    if (setting.name == "batch" || setting.name == "threads") continue;
    Json values = Json::array();
    for (const std::string& value : setting.values) values.push_back(value);
    settings.set(setting.name, std::move(values));
  }
  return settings;
}

void expect_choices(const char* option, const ModelConfig& model) {
  VITRAIL_EXPECT(!model.moe_blocks.empty(), ExitCode::usage, text(option, " of a dense model"), "it has no routers",
                 "");
  VITRAIL_EXPECT(model.router.kind != RouterKind::soft, ExitCode::usage, text(option, " of a Soft MoE"),
                 "its router mixes tokens and chooses nothing", "");
}

}  // namespace

void add_routing_options(Options& options, RunConfig& config, RoutingOptions& routing) {
  options.section("What the routers do");
  options
      .add("dump-routing", routing.dump, "FILE",
           "write gates, choices and slots of every image and MoE block to an HDF5 file")
      .only_on_command_line();
  options.add("dump-images", routing.dump_images, "N", "the first N images only").only_on_command_line();
  options
      .add("random-blocks", config.model.router.random_blocks, "BLOCK...",
           "evaluate with random choices in place of these blocks' routers")
      .only_on_command_line()
      .effect(Effect::numerics);
  options
      .add("random-each", routing.random_each, "",
           "evaluate with the router of one block random, for every MoE block: a table and a CSV file")
      .only_on_command_line();
  options.add("random-csv", routing.random_csv, "FILE", "this table; default: random.csv in the run directory")
      .only_on_command_line();
}

void resolve(RoutingOptions& routing, const Options& options, const RunConfig& config) {
  if (!config.model.router.random_blocks.empty()) expect_choices("--random-blocks", config.model);
  VITRAIL_EXPECT(routing.random_each || routing.random_csv.empty(), ExitCode::usage,
                 "--random-csv without --random-each", "it holds the table of that", "Add --random-each");
  if (routing.random_each) {
    expect_choices("--random-each", config.model);
    VITRAIL_EXPECT(config.model.router.random_blocks.empty(), ExitCode::usage, "--random-each and --random-blocks",
                   "the one takes every block in turn, the other says which", "Give one of them");
    expect_folder_of(routing.random_csv);
    if (routing.random_csv.empty() && !config.run_dir.empty()) routing.random_csv = config.run_dir / "random.csv";
  }
  VITRAIL_EXPECT(!routing.dump.empty() || !routing.dump_images, ExitCode::usage, "--dump-images without --dump-routing",
                 "it says how many images go into that file", "Add --dump-routing FILE");
  if (!routing.dump.empty()) {
    expect_choices("--dump-routing", config.model);
    expect_folder_of(routing.dump);
    VITRAIL_EXPECT(!routing.dump_images || *routing.dump_images >= 1, ExitCode::usage,
                   text("--dump-images ", *options.given("dump-images")), "a file of no images", "");
  }
}

Json evaluate_random_each(const Bench& bench, const RoutingOptions& routing, const Log& log) {
  log.info("");
  log.info("random block   accuracy    change       loss   dropped");
  Json rows = Json::array();
  const auto add = [&](const Json& block, const ModelConfig& model) {
    rows.push_back(row_of(block, evaluate(bench, model)));
    print_row(rows.items().back(), rows.items().front().at("accuracy").as_real(), log);
  };
  add({}, bench.config.model);
  for (const std::int64_t block : bench.config.model.moe_blocks) {
    ModelConfig model = bench.config.model;
    model.router.random_blocks = {block};
    add(block, model);
  }
  if (!routing.random_csv.empty()) {
    write_result(bench, routing.random_csv, to_csv(rows));
    log.info("written: ", routing.random_csv.string());
  }
  return rows;
}

Metrics evaluate_and_dump(const Bench& bench, const RoutingOptions& routing, const CheckpointReader& reader,
                          const Options& options) {
  const std::int64_t images = std::min(routing.dump_images.value_or(bench.dataset.images()), bench.dataset.images());
  const RoutingDumpPlan plan{.path = routing.dump,
                             .images = images,
                             .checkpoint = reader.path().string(),
                             .step = reader.info().step,
                             .data = bench.dataset.name(),
                             .settings = numerics_of(options).dump()};
  RoutingDump dump(plan, bench.config.model, bench.layout, bench.ranks.world, bench.device, bench.ops.real());
  const auto add_pass = [&](std::int64_t pass_begin, const Activations& acts) { dump.add_pass(pass_begin, acts); };
  Metrics metrics = evaluate(bench, bench.config.model, add_pass);
  dump.finish();
  return metrics;
}

}  // namespace vitrail
