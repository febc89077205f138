// vitrail-eval: evaluates a checkpoint on a data set, also with other routing than it was trained with.

#include <iostream>

#include "apps/eval_fewshot.hpp"
#include "apps/eval_routing.hpp"
#include "apps/eval_sweep.hpp"
#include "apps/launch_check.hpp"
#include "apps/progress.hpp"
#include "apps/run_options.hpp"
#include "apps/run_report.hpp"
#include "apps/run_start.hpp"
#include "base/file.hpp"
#include "comm/mpi/mpi.hpp"

namespace vitrail {
namespace {

constexpr const char* kProgram = "vitrail-eval";
constexpr const char* kManual =
    "Evaluates a trained model: accuracy, loss, dropped choices and load of the experts.\n"
    "\n"
    "  vitrail-eval --run-dir runs/a --data data/fashion-mnist/test\n"
    "  mpirun -np 2 vitrail-eval --run-dir runs/a --data ... --expert-parallel 2 --capacity-factor 0.5\n"
    "  vitrail-eval --run-dir runs/a --data ... --capacity-table 0.1 0.25 0.5 1.05\n"
    "  vitrail-eval --run-dir runs/a --data ... --sweep --sweep-selected 1 2\n"
    "  vitrail-eval --run-dir runs/a --data ... --dump-routing routing.h5 --dump-images 100\n"
    "  vitrail-eval --run-dir runs/a --data ... --few-shot 1 5 10 25 --few-shot-train data/b --few-shot-test data/b\n"
    "\n"
    "The model is that of the checkpoint; routing may differ: --selected, --capacity-factor, --capacity-slots,\n"
    "--token-order and --group-images override what the run was trained with.";

struct Settings {
  RunConfig run;
  RunOptionTexts texts;
  MachineOptions machine;
  std::filesystem::path checkpoint;
  std::filesystem::path output;
  bool average = false;
  SweepOptions sweep;
  RoutingOptions routing;
  FewShotSettings few_shot;
};

void add_options(Options& options, Settings& s) {
  options.section("Evaluation");
  options.add("run-dir", s.run.run_dir, "DIR", "a run; its latest checkpoint is evaluated").only_on_command_line();
  options.add("checkpoint", s.checkpoint, "DIR", "one checkpoint, instead of --run-dir").only_on_command_line();
  options.add("average", s.average, "", "evaluate the running average of the weights (trained with --average-decay)")
      .only_on_command_line();
  options.add("data", s.run.data, "PATH", "folders that vitrail-pack made").only_on_command_line();
  options.add("output", s.output, "FILE", "results as JSON; default: evaluation.json in the run directory")
      .only_on_command_line();
  add_sweep_options(options, s.sweep);
  add_routing_options(options, s.run, s.routing);
  add_few_shot_options(options, s.few_shot);
  add_layout_options(options, s.run);
  add_machine_options(options, s.machine);
  add_model_options(options, s.run, s.texts);
  options.section("Loss");
  options.add("loss", s.run.loss, "NAME", "softmax or sigmoid cross-entropy").choices({"softmax", "sigmoid"});
}

std::vector<Setting> remembered(const Json& config) {
  std::vector<Setting> settings = settings_of(config);
  // How the training was cut over ranks says nothing of this job.
  std::erase_if(settings, [](const Setting& setting) {
    return setting.name == "expert-parallel" || setting.name == "leaves-per-pass" || setting.name == "recompute" ||
           setting.name == "early-update" || setting.name == "threads";
  });
  return settings;
}

/// The evaluation as the options say it; its routing goes to a file if that is asked for.
Json evaluate_as_set(const Bench& bench, const RoutingOptions& routing, const CheckpointReader& reader,
                     const Options& options, const Log& log) {
  const Stopwatch clock;
  const Metrics metrics =
      routing.dump.empty() ? evaluate(bench, bench.config.model) : evaluate_and_dump(bench, routing, reader, options);
  const double seconds = clock.seconds();
  log.info("test accuracy ", fixed(100 * metrics.accuracy(), 2), " % (", metrics.correct, " of ", metrics.images,
           "), loss ", fixed(metrics.main_loss, 4), ", dropped ", fixed(100 * metrics.drop_rate(), 2),
           " %, fullest expert ", fixed(metrics.load_imbalance(), 2), " x the mean; ",
           fixed(static_cast<double>(metrics.images) / seconds, 0), " images/s");
  if (!routing.dump.empty()) log.info("routing: ", routing.dump.string());
  Json json = to_json(metrics);
  json.set("test_accuracy", metrics.accuracy());
  return json;
}

int evaluate_checkpoint(MpiSession& session, int argc, char** argv) {
  Settings settings;
  Options options(kProgram, kManual);
  add_options(options, settings);
  (void)options.parse(argc, argv);
  const auto path = options.given("checkpoint") ? options.given("checkpoint") : options.given("run-dir");
  VITRAIL_EXPECT(path.has_value(), ExitCode::usage, "neither --run-dir nor --checkpoint was given",
                 "there is nothing to evaluate", "");
  const CheckpointReader reader(*path);
  options.read_settings(remembered(reader.info().config));
  apply_run_options(options, settings.run, settings.texts);
  RunConfig& config = settings.run;
  resolve(settings.sweep, options, config);
  resolve(settings.routing, options, config);
  settings.few_shot.check();

  const Log log(kProgram, session.rank(), session.size());
  VITRAIL_EXPECT(!config.data.empty(), ExitCode::usage, "no --data was given", "evaluation needs images",
                 "Name a folder that vitrail-pack made");
  Dataset dataset = Dataset::open(config.data, "test");
  expect_data_fits(dataset, config.model);
  // One pass of the evaluation is one batch; its images are summed in the order of the data.
  config.leaves_per_pass = std::max<std::int64_t>(config.leaves_per_pass, 1);
  config.batch = session.size() * config.leaves_per_pass * config.leaf_images;
  const Layout layout = make_layout(config, session.rank(), session.size());
  check_launch(session, log, options, {config.threads, settings.machine.oversubscribe, dataset.fingerprint()});
  Activity activity;
  const Machine machine(session, config, settings.machine, activity);
  Device& device = machine.device();
  Ops& ops = machine.ops();
  const Ranks ranks(machine.world(), layout);
  const LoadedModel model(config.model, layout, ops, device, reader, settings.average);
  const Bench bench{config, layout, device, ops, ranks, model.params, dataset};
  log.info(reader.path().string(), ", step ", reader.info().step, ", on ", dataset.name(), ": ", dataset.images(),
           " images");
  machine.report(log);

  Json results = evaluate_as_set(bench, settings.routing, reader, options, log);
  results.set("checkpoint", reader.path().string()).set("step", reader.info().step).set("data", dataset.name());
  const SweepOptions& sweep = settings.sweep;
  if (!sweep.capacity_table.empty()) {
    results.set("capacity_table", evaluate_capacity_table(bench, sweep.capacity_table, log));
  }
  if (sweep.sweep) results.set("sweep", evaluate_sweep(bench, sweep, log));
  if (settings.routing.random_each) results.set("random_each", evaluate_random_each(bench, settings.routing, log));
  if (settings.few_shot.wanted()) {
    results.set("few_shot",
                evaluate_few_shot(settings.few_shot, {config.model, layout, device, ops, ranks, model.params}, log));
  }
  std::filesystem::path output = settings.output;
  if (output.empty() && !config.run_dir.empty()) output = config.run_dir / "evaluation.json";
  if (session.rank() == 0 && !output.empty()) {
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
