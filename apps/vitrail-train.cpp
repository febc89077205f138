// vitrail-train: trains a V-MoE on MPI ranks.

#include <filesystem>
#include <iostream>

#include "apps/hang_report.hpp"
#include "apps/job_record.hpp"
#include "apps/launch_check.hpp"
#include "apps/progress.hpp"
#include "apps/run_options.hpp"
#include "apps/run_report.hpp"
#include "apps/run_start.hpp"
#include "apps/stop.hpp"
#include "apps/train_loop.hpp"
#include "base/file.hpp"
#include "comm/mpi/mpi.hpp"
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
    "overrides the file. The run directory receives metrics.jsonl, summary.json, checkpoints/ and jobs/ (a record of\n"
    "every job). With --resume it goes on from its last checkpoint, also on another number of ranks, to the same "
    "bits.\n"
    "\n"
    "TERM, USR1, USR2, HUP, the end of the job's time, or a file RUN/stop end it in time: it saves at the next step "
    "and\n"
    "returns 85, and the same command goes on. The end is that of --time-limit, or what Slurm says.";

struct Settings {
  RunConfig run;
  RunOptionTexts texts;
  MachineOptions machine;
  std::string progress = "auto";
  std::string time_limit;  ///< empty: what Slurm says
  bool digest = false;
  bool print_config = false;
  double hang_timeout_s = 1800;
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
  options.add("save-minutes", s.run.save_minutes, "X",
              "minutes between checkpoints, besides --save-every; 0: no clock");
  options.add("keep-last", s.run.keep_last, "N", "checkpoints that are kept; 0: all");
  options.add("keep-every", s.run.keep_every, "STEPS", "keep the checkpoints of these steps, too; 0: no others");
  options.add("checkpoint-writers", s.run.checkpoint_writers, "N", "files of a checkpoint; 0: one per rank");
  options.add("time-limit", s.time_limit, "TIME",
              "of this job: 3600 (seconds), 90m, 1:30:00, 2-00:00:00; it saves and stops before. Default: Slurm's");
  options.add("log-every", s.run.log_every, "STEPS", "steps between lines of metrics.jsonl");
  options.add("stop-after", s.run.stop_after, "STEPS", "stop this job after so many steps, with a checkpoint");
  options
      .add("progress", s.progress, "HOW",
           "one line that is redrawn (terminal) or a line every ten seconds (log); auto: terminal without a launcher")
      .choices({"auto", "terminal", "log"});
  options.add("hang-timeout", s.hang_timeout_s, "SECONDS",
              "without progress for so long, every rank says where it is, and the job ends with exit code 6; 0: never");
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

/// Goes on from the newest intact checkpoint of this run: its folder.
std::filesystem::path resume(TrainState& state, const Log& log, const Options& options, const std::string& data_name,
                             const std::string& fingerprint) {
  const auto expect_fits = [&](const CheckpointReader& reader) {
    expect_same_numerics(options, reader.info().config, reader.path().string());
    expect_same_data(fingerprint, data_name, reader);
    const std::string other = other_backend(options, reader.info().config);
    if (!other.empty()) log.info(other, ": the bits will differ from those of an uninterrupted run");
  };
  std::filesystem::path from = restore_newest(state, state.config.run_dir, log, expect_fits);
  log.info("resumed from ", from.string());
  if (!state.config.init_from.empty()) log.info("--init-from is ignored: the run began long ago");
  return from;
}

SaveOptions save_options(const RunConfig& config, Activity& activity) {
  return {.keep_last = static_cast<int>(config.keep_last),
          .keep_every = config.keep_every,
          .writers = static_cast<int>(config.checkpoint_writers),
          .alive = [&activity] { activity.alive(); }};
}

/// Error (usage) for settings that cannot be meant, before anything is made.
void expect_sensible(const Settings& settings) {
  const RunConfig& config = settings.run;
  VITRAIL_EXPECT(!config.init_from.empty() || !(config.new_head || config.init_average), ExitCode::usage,
                 "--new-head and --init-average without --init-from", "they say what is taken from another run", "");
  for (const auto& [name, value] : {std::pair{"keep-last", config.keep_last},
                                    {"keep-every", config.keep_every},
                                    {"checkpoint-writers", config.checkpoint_writers}}) {
    VITRAIL_EXPECT(value >= 0 && value <= 1'000'000'000, ExitCode::usage, text("--", name, " ", value),
                   "it is a number from 0 on", "");
  }
  if (!settings.time_limit.empty()) (void)duration_of(settings.time_limit);
}

/// Before the first save nobody knows how long it takes: slow disks are assumed.
double guess_save_seconds(const CheckpointSaver& saver) {
  return 1 + static_cast<double>(saver.buffer_bytes()) / 100e6;
}

std::string digest_of_run(const RunConfig& config) { return CheckpointReader(config.run_dir).digest(); }

/// All steps are done. The job that did the last one may have died before it wrote its summary.
int end_at_once(const Log& log, const Settings& settings, const TrainState& state) {
  log.info("nothing to do: all ", state.step, " steps are done");
  if (state.ranks.world.rank() != 0) return 0;
  Json job = Json::object().set("steps", 0);
  if (settings.digest) {
    job.set("digest", digest_of_run(settings.run));
    log.info("digest  ", job.at("digest").as_string(), "  of the checkpoint of step ", state.step);
  }
  if (step_of_summary(settings.run.run_dir) != state.step) write_summary(settings.run.run_dir, state.step, job);
  return 0;
}

/// All steps of this job are done and saved.
int end_in_full(const Log& log, const Settings& settings, const TrainState& state, const Machine& machine,
                RunTotals totals, JobRecord* record) {
  if (settings.digest && record != nullptr) totals.digest = digest_of_run(settings.run);
  const double gemm_peak = measure_gemm_peak(machine, static_cast<int>(settings.run.threads));
  report_end(log, state, totals, gemm_peak);
  if (record == nullptr) return 0;
  const Json job = job_summary(state, totals, gemm_peak);
  record->finish(job);
  write_summary(settings.run.run_dir, state.step, job);
  return 0;
}

/// The job was told to stop, and has saved. Seconds may count: nothing is measured any more, and summary.json, which
/// says that the steps are done, is left to the job that does them.
int end_in_time(const Log& log, const TrainState& state, const RunTotals& totals, const std::string& why,
                JobRecord* record) {
  if (totals.steps > 0) report_end(log, state, totals, 0);
  log.info("stopped at step ", state.step, " (", why, "), which is saved; exit code ",
           static_cast<int>(ExitCode::requeue), ": run again with --resume");
  if (record != nullptr) record->finish(job_summary(state, totals, 0).set("stopped", why));
  state.ranks.world.barrier();
  ignore_stop_signals();
  return static_cast<int>(ExitCode::requeue);
}

/// How the process was started, noted before MPI changed anything.
struct Start {
  double unix_s = unix_now();
  bool at_terminal = stdout_is_a_terminal();
  std::vector<std::string> command;
};

int train(MpiSession& session, int argc, char** argv, const Start& start) {
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
  expect_sensible(settings);
  const Log log(kProgram, session.rank(), session.size());

  Dataset dataset = open_data(config);
  const std::string fingerprint = dataset.fingerprint();
  const std::int64_t last_step = total_steps(config, dataset.images());
  check_launch(session, log, options, {config.threads, settings.machine.oversubscribe, fingerprint});
  Activity activity;
  const auto host_world = session.world();
  const HangWatch hang_watch({kProgram, config.run_dir, settings.hang_timeout_s}, *host_world, activity);
  const Machine machine(session, config, settings.machine, activity);
  Communicator& world = machine.world();
  const auto checkpoint = find_checkpoint(config, world);
  TrainState state(config, machine.device(), machine.ops(), world, dataset.labels_per_image());
  Trainer trainer(state, last_step);
  std::string resumed_from;
  if (checkpoint) {
    resumed_from = resume(state, log, options, dataset.name(), fingerprint).string();
  } else if (!config.init_from.empty()) {
    start_from(state, log);
  }
  if (state.step >= last_step) return end_at_once(log, settings, state);

  CheckpointSaver saver(machine.host_world(), machine.device(), config.run_dir, save_options(config, activity),
                        checkpoint_pieces(state));
  const Json remembered = settings_with_data(options, fingerprint);
  StartFacts facts{.command = start.command,
                   .settings = remembered,
                   .data = dataset.name(),
                   .images = dataset.images(),
                   .resumed_from = resumed_from,
                   .last_step = last_step,
                   .checkpoint_buffer_bytes = saver.buffer_bytes(),
                   .end = {}};
  if (world.rank() == 0) facts.end = find_end_of_job(settings.time_limit, start.unix_s, config.run_dir);
  const Json started = report_start(log, session, machine, state, facts);
  machine.report(log);
  std::optional<JobRecord> record;
  if (world.rank() == 0) record.emplace(log, config.run_dir, started);
  JobRecord* const mine = record ? &*record : nullptr;

  const bool terminal = settings.progress == "terminal" || (settings.progress == "auto" && start.at_terminal);
  TrainLoop loop(log, state, trainer, saver, std::move(dataset),
                 {.last_step = last_step,
                  .settings = remembered,
                  .is_saved = checkpoint.has_value(),
                  .terminal = terminal,
                  .end = facts.end,
                  .save_guess_s = guess_save_seconds(saver)});
  const std::string why = loop.run();
  return why.empty() ? end_in_full(log, settings, state, machine, loop.totals(), mine)
                     : end_in_time(log, state, loop.totals(), why, mine);
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
  catch_stop_signals();
  Start start;
  start.command.assign(argv, argv + argc);
  return run_ranks(argc, argv, kProgram, [&](MpiSession& session) { return train(session, argc, argv, start); });
}
