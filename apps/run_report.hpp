#pragma once
// What a run says at its start and at its end, and small things that its programs share.

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "apps/machine.hpp"
#include "apps/time_limit.hpp"
#include "base/log.hpp"
#include "comm/mpi/mpi.hpp"
#include "data/loader.hpp"
#include "train/checkpoint_saver.hpp"
#include "train/step.hpp"

namespace vitrail {

/// Error (data) unless the image shape is the model's.
void expect_images_fit(const Dataset& dataset, const ModelConfig& model);
/// Error (data) unless image shape and classes are the model's.
void expect_data_fits(const Dataset& dataset, const ModelConfig& model);

/// A block's images and labels into the pass's input tensors.
void copy_block(const ImageBlock& block, Tensor raw_images, Tensor labels);

Json layout_json(const Layout& layout);

/// What the start of a job says besides the training state.
struct StartFacts {
  std::vector<std::string> command;  ///< as it was started
  Json settings;                     ///< numerics and layout (run_settings)
  std::string data;                  ///< name of the data set
  std::int64_t images = 0;           ///< of it
  std::string resumed_from;          ///< checkpoint; empty: the run begins
  std::int64_t last_step = 0;        ///< of the run
  std::int64_t checkpoint_buffer_bytes = 0;
  std::optional<EndOfJob> end;  ///< on rank 0
};

/// Build, versions, ranks and their places, layout, model, seed, memory by class, Slurm's variables and the end of the
/// job, if it is known: the longer form is for the job's record, the returned object (apps/job_record.hpp). Prints the
/// short one. Collective.
Json report_start(const Log& log, MpiSession& session, const Machine& machine, const TrainState& state,
                  const StartFacts& facts);

/// Sums over the steps of this job.
struct RunTotals {
  std::int64_t steps = 0;
  double train_s = 0;  ///< checkpoints included
  double step_s = 0;
  double data_wait_s = 0;
  double loss = 0;  ///< running mean of the last 100 steps or so
  double accuracy = 0;
  double drop_rate = 0;
  double load_imbalance = 1;
  std::int64_t saves = 0;
  double save_stall_s = 0;      ///< the steps were held by saves
  double save_late_data_s = 0;  ///< waited for data while saves were written: part of data_wait_s
  SaveTimes last_save;          ///< of these
  double last_save_late_data_s = 0;
  std::string digest;  ///< of the last checkpoint; empty: not asked for

  void add(const StepReport& report, double step_seconds, double wait_seconds);
  void add(const SaveTimes& times, double late_data_s);
};

/// {"step", "bytes", "seconds", "bytes_per_s", "stall_s"}: stall_s with the data's share, as the steps felt it.
Json to_json(const SaveTimes& times, double late_data_s);
/// The same as a line of the log.
std::string describe(const SaveTimes& times, double late_data_s);

/// What a job of at least one step comes to, for its record and summary.json. `gemm_peak` in GFLOP/s over all ranks; 0:
/// not measured.
Json job_summary(const TrainState& state, const RunTotals& totals, double gemm_peak);

/// Prints the closing lines of a job of at least one step.
void report_end(const Log& log, const TrainState& state, const RunTotals& totals, double gemm_peak);

/// Writes RUN/summary.json of a job that has done all its steps, one key a line: "step", what `job` holds, which is of
/// the last job alone, and "all_jobs", the sums over the run as far as its jobs have left records (totals_of_jobs). For
/// rank 0.
void write_summary(const std::filesystem::path& run_dir, std::int64_t step, const Json& job);

/// The step of which RUN/summary.json tells; -1 when there is none, or none that can be read.
std::int64_t step_of_summary(const std::filesystem::path& run_dir);

}  // namespace vitrail
