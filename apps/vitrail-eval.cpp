// vitrail-eval: evaluates a checkpoint on a data set, also with other routing than it was trained with.

#include <iostream>

#include "apps/progress.hpp"
#include "apps/run_options.hpp"
#include "apps/run_report.hpp"
#include "apps/run_start.hpp"
#include "base/file.hpp"
#include "comm/mpi/mpi.hpp"
#include "train/evaluate.hpp"
#include "train/state_checkpoint.hpp"

namespace vitrail {
namespace {

constexpr const char* kProgram = "vitrail-eval";
constexpr const char* kManual =
    "Evaluates a trained model: accuracy, loss, dropped choices and load of the experts.\n"
    "\n"
    "  vitrail-eval --run-dir runs/a --data data/fashion-mnist/test\n"
    "  mpirun -np 2 vitrail-eval --run-dir runs/a --data ... --expert-parallel 2 --capacity-factor 0.5\n"
    "  vitrail-eval --run-dir runs/a --data ... --capacity-table 0.1 0.25 0.5 1.05\n"
    "\n"
    "The model is that of the checkpoint; routing may differ: --selected, --capacity-factor, --capacity-slots,\n"
    "--token-order and --group-images override what the run was trained with.";

struct Settings {
  RunConfig run;
  RunOptionTexts texts;
  std::filesystem::path checkpoint;
  std::filesystem::path output;
  std::vector<double> capacity_table;
};

void add_options(Options& options, Settings& s) {
  options.section("Evaluation");
  options.add("run-dir", s.run.run_dir, "DIR", "a run; its latest checkpoint is evaluated").only_on_command_line();
  options.add("checkpoint", s.checkpoint, "DIR", "one checkpoint, instead of --run-dir").only_on_command_line();
  options.add("data", s.run.data, "PATH", "folders that vitrail-pack made").only_on_command_line();
  options
      .add("capacity-table", s.capacity_table, "X...",
           "evaluate at these capacity factors, in vanilla and in prioritized order, and print a table")
      .only_on_command_line();
  options.add("output", s.output, "FILE", "results as JSON; default: evaluation.json in the run directory")
      .only_on_command_line();
  add_layout_options(options, s.run);
  add_model_options(options, s.run, s.texts);
  options.section("Loss");
  options.add("loss", s.run.loss, "NAME", "softmax or sigmoid cross-entropy").choices({"softmax", "sigmoid"});
}

std::vector<Setting> remembered(const Json& config) {
  std::vector<Setting> settings;
  for (const JsonMember& member : config.members()) {
    // How the training was cut over ranks says nothing of this job.
    if (member.key == "expert-parallel" || member.key == "leaves-per-pass" || member.key == "threads") continue;
    Setting setting{member.key, {}, Effect::none};
    for (const Json& value : member.value.items()) setting.values.push_back(value.as_string());
    settings.push_back(std::move(setting));
  }
  return settings;
}

/// The parameters of a checkpoint, experts shared out over the expert-parallel ranks.
class LoadedModel {
 public:
  LoadedModel(const ModelConfig& config, const Layout& layout, Dtype real, Device& device,
              const CheckpointReader& reader)
      : table_(parameter_table(config)), dense_(table_, 0, 0, 1) {
    const bool sparse = !config.moe_blocks.empty();
    const std::int64_t first = layout.first_expert(config);
    if (sparse) experts_.emplace(table_, first, layout.experts_here(config), 1);
    const std::int64_t elements = dense_.elements() + (sparse ? experts_->elements() : 0);
    arena_ = std::make_unique<Arena>("parameters", device, elements * size_of(real));
    std::vector<Tensor> tensors;
    dense_.cut(table_, arena_->allocate(real, {dense_.elements()}), tensors);
    if (sparse) experts_->cut(table_, arena_->allocate(real, {experts_->elements()}), tensors);
    restore_parameters(table_, first, tensors, reader);
    params = bind_params(config, table_, tensors);
  }
  VitMoeParams params;

 private:
  std::vector<ParameterSpec> table_;
  FlatLayout dense_;
  std::optional<FlatLayout> experts_;
  std::unique_ptr<Arena> arena_;
};

/// What is the same for every evaluation of this job.
struct Bench {
  const RunConfig& config;
  const Layout& layout;
  Device& device;
  Ops& ops;
  const Ranks& ranks;
  const VitMoeParams& params;
  Dataset& dataset;
};

Metrics evaluate(const Bench& bench, const ModelConfig& model) {
  Evaluator evaluator(model, bench.layout, bench.device, bench.ops, bench.dataset.labels_per_image());
  std::vector<std::int64_t> numbers;
  return evaluator.run(bench.params, bench.ranks, make_loss(bench.config), bench.dataset.images(),
                       [&](std::int64_t first, std::int64_t count, Activations& acts) {
                         numbers.clear();
                         for (std::int64_t i = 0; i < count; ++i) numbers.push_back(first + i);
                         bench.dataset.read(numbers, acts.raw_images.as<std::uint8_t>(),
                                            acts.labels.as<std::int32_t>());
                       });
}

Json evaluate_as_set(const Bench& bench, const Log& log) {
  const Stopwatch clock;
  const Metrics metrics = evaluate(bench, bench.config.model);
  const double seconds = clock.seconds();
  log.info("test accuracy ", fixed(100 * metrics.accuracy(), 2), " % (", metrics.correct, " of ", metrics.images,
           "), loss ", fixed(metrics.main_loss, 4), ", dropped ", fixed(100 * metrics.drop_rate(), 2),
           " %, fullest expert ", fixed(metrics.load_imbalance(), 2), " x the mean; ",
           fixed(static_cast<double>(metrics.images) / seconds, 0), " images/s");
  Json json = to_json(metrics);
  json.set("test_accuracy", metrics.accuracy());
  return json;
}

/// Accuracy against capacity, in both orders. [V-MoE]
Json evaluate_table(const Bench& bench, const std::vector<double>& factors, const Log& log) {
  log.info("");
  log.info("capacity   slots   vanilla   dropped   prioritized   dropped     (test accuracy; choices dropped)");
  Json rows = Json::array();
  for (const double factor : factors) {
    ModelConfig model = bench.config.model;
    model.router.capacity.factor = factor;
    model.router.capacity.slots.reset();
    std::string line;
    Json row = Json::object().set("capacity_factor", factor).set("slots", model.slots());
    for (const auto& [order, name] :
         {std::pair{TokenOrder::vanilla, "vanilla"}, std::pair{TokenOrder::prioritized, "prioritized"}}) {
      model.router.order = order;
      const Metrics metrics = evaluate(bench, model);
      char cells[64];
      std::snprintf(cells, sizeof cells, "%*.2f %%   %5.1f %%", order == TokenOrder::vanilla ? 7 : 12,
                    100 * metrics.accuracy(), 100 * metrics.drop_rate());
      line += cells;
      row.set(name, to_json(metrics));
    }
    char head[64];
    std::snprintf(head, sizeof head, "%8.2f   %5lld", factor, static_cast<long long>(model.slots()));
    log.info(head, line);
    rows.push_back(std::move(row));
  }
  return rows;
}

int evaluate_checkpoint(MpiSession& session, int argc, char** argv) {
  Settings settings;
  Options options(kProgram, kManual);
  add_options(options, settings);
  (void)options.parse(argc, argv);
  const auto path = options.given("checkpoint") ? options.given("checkpoint") : options.given("run-dir");
  VITRAIL_EXPECT(path.has_value(), ExitCode::usage, "neither --run-dir nor --checkpoint was given",
                 "there is nothing to evaluate", "");
  const CheckpointReader reader(*path, session.rank() == 0);  // one reads every byte for all
  options.read_settings(remembered(reader.info().config));
  apply_run_options(options, settings.run, settings.texts);
  RunConfig& config = settings.run;

  const auto world = session.world();
  const Log log(kProgram, world->rank(), world->size());
  VITRAIL_EXPECT(!config.data.empty(), ExitCode::usage, "no --data was given", "evaluation needs images",
                 "Name a folder that vitrail-pack made");
  Dataset dataset = Dataset::open(config.data, "test");
  expect_data_fits(dataset, config.model);
  // One pass of the evaluation is one batch; its images are summed in the order of the data.
  config.leaves_per_pass = std::max<std::int64_t>(config.leaves_per_pass, 1);
  config.batch = world->size() * config.leaves_per_pass * config.leaf_images;
  const Layout layout = make_layout(config, world->rank(), world->size());
  const auto device = make_cpu_device();
  const auto ops = make_ops(config, *world);
  const Ranks ranks(*world, layout);
  const LoadedModel model(config.model, layout, ops->real(), *device, reader);
  const Bench bench{config, layout, *device, *ops, ranks, model.params, dataset};
  log.info(reader.path().string(), ", step ", reader.info().step, ", on ", dataset.name(), ": ", dataset.images(),
           " images");

  Json results = evaluate_as_set(bench, log);
  results.set("checkpoint", reader.path().string()).set("step", reader.info().step).set("data", dataset.name());
  if (!settings.capacity_table.empty()) {
    VITRAIL_EXPECT(!config.model.moe_blocks.empty(), ExitCode::usage, "a table of capacities of a dense model",
                   "it has no experts", "");
    results.set("capacity_table", evaluate_table(bench, settings.capacity_table, log));
  }
  std::filesystem::path output = settings.output;
  if (output.empty() && !config.run_dir.empty()) output = config.run_dir / "evaluation.json";
  if (world->rank() == 0 && !output.empty()) {
    write_file_atomically(output, results.dump(2) + "\n", ExitCode::other);
    log.info("\nresults: ", output.string());
  }
  return 0;
}

}  // namespace
}  // namespace vitrail

int main(int argc, char** argv) {
  using namespace vitrail;
  if (wants_manual(argc, argv)) {
    return run_guarded(kProgram, [&] {
      Settings settings;
      Options options(kProgram, kManual);
      add_options(options, settings);
      (void)options.parse(argc, argv);
      return 0;
    });
  }
  return run_ranks(argc, argv, kProgram, [&](MpiSession& session) { return evaluate_checkpoint(session, argc, argv); });
}
