// vitrail-train: trains a V-MoE on MPI ranks.

#include <filesystem>
#include <iostream>

#include "apps/progress.hpp"
#include "apps/run_options.hpp"
#include "apps/run_report.hpp"
#include "apps/run_start.hpp"
#include "base/file.hpp"
#include "comm/mpi/mpi.hpp"
#include "data/loader.hpp"
#include "train/initial_weights.hpp"
#include "train/presets.hpp"
#include "train/resume.hpp"
#include "train/state_checkpoint.hpp"
#include "train/step.hpp"

namespace vitrail {
namespace {

constexpr const char* kProgram = "vitrail-train";
constexpr const char* kManual =
    "Trains a sparse vision transformer (V-MoE) on one or many MPI ranks.\n"
    "\n"
    "  vitrail-train --preset fmnist --data data/fashion-mnist/train --run-dir runs/a\n"
    "  mpirun -np 2 vitrail-train --preset fmnist --data ... --run-dir runs/b --expert-parallel 2\n"
    "  srun --mpi=pmix vitrail-train --config my.cfg --resume\n"
    "\n"
    "A preset gives every setting a value; a configuration file (name = value) overrides it, and the command line\n"
    "overrides the file. The run directory receives metrics.jsonl, summary.json and checkpoints/. With --resume it\n"
    "goes on from its last checkpoint, also on another number of ranks, to the same bits.";

struct Settings {
  RunConfig run;
  RunOptionTexts texts;
  MachineOptions machine;
  std::string progress = "auto";
  bool digest = false;
  bool print_config = false;
};

void add_options(Options& options, Settings& s) {
  options.section("Run");
  options.add("preset", s.texts.preset, "NAME", "starting point of all settings")
      .choices(preset_names())
      .only_on_command_line();
  options.add("config", s.texts.config_file, "FILE", "configuration file").only_on_command_line();
  options.add("data", s.run.data, "PATH", "folders that vitrail-pack made");
  options.add("run-dir", s.run.run_dir, "DIR", "where checkpoints and metrics go");
  options.add("resume", s.run.resume, "", "go on from the last checkpoint; start anew if there is none");
  options.add("init-from", s.run.init_from, "DIR",
              "start with the parameters of this run or checkpoint: fine-tuning, upcycling of a dense model");
  options.add("init-average", s.run.init_average, "", "with the running average of its weights instead");
  options.add("new-head", s.run.new_head, "", "but with a fresh head; always so when the number of classes differs");
  options.add("save-every", s.run.save_every, "STEPS", "steps between checkpoints; 0: at the end only");
  options.add("keep-last", s.run.keep_last, "N", "checkpoints that are kept; 0: all");
  options.add("log-every", s.run.log_every, "STEPS", "steps between lines of metrics.jsonl");
  options.add("stop-after", s.run.stop_after, "STEPS", "stop this job after so many steps, with a checkpoint");
  options
      .add("progress", s.progress, "HOW",
           "one line that is redrawn (terminal) or a line every ten seconds (log); auto: terminal without a launcher")
      .choices({"auto", "terminal", "log"});
  options.add("digest", s.digest, "",
              "at the end print a SHA-256 of the last checkpoint's tensors: equal runs have equal ones");
  options.add("print-config", s.print_config, "", "print the merged configuration and stop").only_on_command_line();
  add_layout_options(options, s.run);
  add_machine_options(options, s.machine);
  add_training_options(options, s.run);
  add_model_options(options, s.run, s.texts);
}

/// The dataset that the run names, checked against the model.
Dataset open_data(const RunConfig& config) {
  VITRAIL_EXPECT(!config.data.empty(), ExitCode::usage, "no --data was given", "training needs images",
                 "Name a folder that vitrail-pack made");
  Dataset dataset = Dataset::open(config.data, "train");
  expect_data_fits(dataset, config.model);
  return dataset;
}

/// Error (checkpoint) if there were checkpoints, though none is whole: a new start would bury what can perhaps be
/// saved.
void expect_unused(const std::filesystem::path& checkpoints) {
  std::error_code failed;
  for (std::filesystem::directory_iterator at(checkpoints, failed), end; !failed && at != end; at.increment(failed)) {
    VITRAIL_EXPECT(
        at->path().extension() == ".tmp", ExitCode::checkpoint,
        text("no checkpoint in ", checkpoints.string(), " is whole, but there is ", at->path().filename().string()),
        "a checkpoint without its manifest.json is damaged", "Restore it, or name another --run-dir to start anew");
  }
}

/// What a checkpoint remembers of a run: its settings, and which data it was trained on.
Json settings_with_data(const Options& options, const std::string& fingerprint) {
  return run_settings(options).set("data-sha256", Json::array().push_back(fingerprint));
}

void expect_same_data(const std::string& fingerprint, const std::string& name, const CheckpointReader& reader) {
  const Json* then = reader.info().config.find("data-sha256");
  VITRAIL_EXPECT(then == nullptr || then->items().front().as_string() == fingerprint, ExitCode::usage,
                 text("the run cannot be resumed from ", reader.path().string(), " with the data ", name),
                 "its shards are not those that the run was trained on, so results would change",
                 "Name the data that the run began with");
}

/// Makes the run directory, or goes on in it.
std::optional<std::filesystem::path> find_checkpoint(const RunConfig& config, Communicator& world) {
  VITRAIL_EXPECT(!config.run_dir.empty(), ExitCode::usage, "no --run-dir was given",
                 "checkpoints and metrics need a place", "");
  // Rank 0 looks: all ranks must decide alike.
  std::string found;
  if (world.rank() == 0) {
    std::error_code failed;
    std::filesystem::create_directories(config.run_dir, failed);
    VITRAIL_EXPECT(!failed, ExitCode::usage, text(config.run_dir.string(), " cannot be made"), failed.message(), "");
    found = latest_checkpoint(config.run_dir).value_or("").string();
    if (found.empty()) expect_unused(config.run_dir / "checkpoints");
  }
  found = world.all_gather_strings(found)[0];
  if (found.empty()) return std::nullopt;
  VITRAIL_EXPECT(config.resume, ExitCode::usage, text(config.run_dir.string(), " holds a run already: ", found),
                 "it would be overwritten", "Add --resume to go on with it, or name another --run-dir");
  return found;
}

/// Parameters from another run, before the first step.
void start_from(TrainState& state, const Log& log) {
  const RunConfig& config = state.config;
  const CheckpointReader reader(config.init_from);
  const InitialWeights weights(state.table, reader, {config.new_head, config.init_average});
  weights.load(state.device, state.layout.first_expert(config.model), state.parameters);
  state.start_averages();
  log.info("initial weights from ", reader.path().string(), ", step ", reader.info().step);
  for (const std::string& line : weights.report()) log.info("  ", line);
  if (weights.upcycled() && !config.model.router.normalize_gates) {
    log.info("  with --normalize-gates the model would begin like the dense one");
  }
}

int train(MpiSession& session, int argc, char** argv, bool at_terminal) {
  Settings settings;
  Options options(kProgram, kManual);
  add_options(options, settings);
  (void)options.parse(argc, argv);
  apply_run_options(options, settings.run, settings.texts);
  const RunConfig& config = settings.run;
  if (settings.print_config) {
    if (session.rank() == 0) options.print_config(std::cout);
    return 0;
  }
  VITRAIL_EXPECT(!config.init_from.empty() || !(config.new_head || config.init_average), ExitCode::usage,
                 "--new-head and --init-average without --init-from", "they say what is taken from another run", "");
  const Log log(kProgram, session.rank(), session.size());
  const Stopwatch whole;

  Dataset dataset = open_data(config);
  const std::int64_t images = dataset.images();
  const std::string fingerprint = dataset.fingerprint();
  const std::int64_t last_step = total_steps(config, images);
  const Machine machine(session, config, settings.machine);
  Communicator& world = machine.world();
  const auto checkpoint = find_checkpoint(config, world);
  TrainState state(config, machine.device(), machine.ops(), world, dataset.labels_per_image());
  Trainer trainer(state, last_step);
  if (checkpoint) {
    const auto expect_fits = [&](const CheckpointReader& reader) {
      expect_same_numerics(options, reader.info().config, reader.path().string());
      expect_same_data(fingerprint, dataset.name(), reader);
      const std::string other = other_backend(options, reader.info().config);
      if (!other.empty()) log.info(other, ": the bits will differ from those of an uninterrupted run");
    };
    log.info("resumed from ", restore_newest(state, config.run_dir, log, expect_fits).string());
    if (!config.init_from.empty()) log.info("--init-from is ignored: the run began long ago");
  } else if (!config.init_from.empty()) {
    start_from(state, log);
  }
  report_start(log, session, state, dataset.name(), images, last_step);
  machine.report(log);

  const auto save = [&] {
    const Stopwatch clock;
    save_checkpoint(world, config.run_dir,
                    {state.step, settings_with_data(options, fingerprint), layout_json(state.layout)},
                    checkpoint_pieces(state), {.keep_last = static_cast<int>(config.keep_last)});
    return clock.seconds();
  };
  const std::int64_t first_step = state.step;
  const std::int64_t stop =
      config.stop_after ? std::min(last_step, first_step + std::max<std::int64_t>(*config.stop_after, 0)) : last_step;
  if (first_step >= last_step) {
    log.info("nothing to do: all ", last_step, " steps are done");
    return 0;
  }

  const Layout& layout = state.layout;
  Loader loader(std::move(dataset),
                {.share = {layout.batch, layout.leaf_images, layout.leaves_per_pass, layout.ranks, layout.rank},
                 .order = Order::shuffled,
                 .seed = static_cast<std::uint64_t>(config.seed),
                 .augmentation = {config.shift, config.flip},
                 .first_step = first_step,
                 .end_step = stop});
  const NextPass next_pass = [&](Tensor raw_images, Tensor labels) { copy_block(loader.next(), raw_images, labels); };
  trainer.warm_up();
  std::optional<MetricsFile> metrics_file;
  if (world.rank() == 0) metrics_file.emplace(config.run_dir, first_step);
  std::optional<Progress> progress;
  if (world.rank() == 0) {
    progress.emplace(log, first_step, stop, layout.batch,
                     settings.progress == "terminal" || (settings.progress == "auto" && at_terminal));
  }
  Stopwatch training;
  RunTotals totals;
  const auto saves_after = [&](std::int64_t step) {
    return config.save_every > 0 && step % config.save_every == 0 && step < stop;
  };
  while (state.step < stop) {
    const Stopwatch one;
    const StepReport report = trainer.step(next_pass, state.step + 1 < stop && !saves_after(state.step + 1));
    const double wait_s = loader.take_wait_s();
    totals.add(report, one.seconds(), wait_s);
    if (metrics_file && (report.step % std::max<std::int64_t>(config.log_every, 1) == 0 || report.step == last_step)) {
      metrics_file->write(report, static_cast<double>(layout.batch) / one.seconds(), wait_s, whole.seconds());
    }
    if (progress) progress->after(report);
    if (saves_after(report.step)) totals.save_s += save();
  }
  totals.train_s = training.seconds();
  if (progress) progress->finish();
  totals.save_s += save();
  if (settings.digest && world.rank() == 0) totals.digest = CheckpointReader(config.run_dir).digest();
  report_end(log, config, state, totals, measure_gemm_peak(machine, static_cast<int>(config.threads)));
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
  const bool at_terminal = stdout_is_a_terminal();
  return run_ranks(argc, argv, kProgram, [&](MpiSession& session) { return train(session, argc, argv, at_terminal); });
}
