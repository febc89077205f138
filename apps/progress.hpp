#pragma once
// What a training run shows and keeps: progress lines, metrics.jsonl, and the summary at the end.

#include <cstdio>
#include <filesystem>
#include <string>

#include "base/log.hpp"
#include "base/timer.hpp"
#include "train/step.hpp"

namespace vitrail {

/// Everything of a step or an evaluation but times, in full precision: equal runs give equal text.
Json to_json(const Metrics& metrics);
Json to_json(const StepReport& report);

/// metrics.jsonl: one object a step, {"step": ..., ..., "time": {...}}. Rank 0 alone writes.
class MetricsFile {
 public:
  /// Opens RUN/metrics.jsonl for appending, first cutting off what comes after `step`: on resumption the steps after
  /// the checkpoint are computed again.
  MetricsFile(const std::filesystem::path& run_dir, std::int64_t step);
  /// `time`: what differs between equal runs. Error (checkpoint) when the disk is full, as above.
  void write(const StepReport& report, const Json& time);

 private:
  [[noreturn]] void fail_to_write() const;

  struct Closer {
    void operator()(std::FILE* file) const noexcept { std::fclose(file); }
  };
  std::filesystem::path path_;
  std::unique_ptr<std::FILE, Closer> file_;
};

/// Does stdout go to a terminal at which somebody may sit? Not if a launcher started this process: mpirun and srun give
/// ranks a terminal of their own even when the job's output goes to a file. To be asked before MPI starts, which
/// without a launcher sets the same variables.
bool stdout_is_a_terminal();

/// One line that is redrawn on a terminal, or a plain line every few seconds in a batch log.
class Progress {
 public:
  /// Of the steps after `first_step` up to `last_step`.
  Progress(const Log& log, std::int64_t first_step, std::int64_t last_step, std::int64_t images_per_step,
           bool terminal);
  void after(const StepReport& report);
  void finish();

 private:
  const Log& log_;
  std::int64_t first_step_;
  std::int64_t last_step_;
  std::int64_t images_per_step_;
  bool terminal_;
  bool line_open_ = false;
  double loss_ = 0;  ///< running mean
  double shown_at_s_ = -1e9;
  Stopwatch clock_;
};

/// "1 h 02 min", "3 min 20 s", "12.3 s".
std::string duration(double seconds);
/// A number with a fixed number of decimals.
std::string fixed(double value, int decimals);

}  // namespace vitrail
