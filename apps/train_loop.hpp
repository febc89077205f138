#pragma once
// The loop over the steps of a training job: step, metrics, saves, and when to stop.

#include <memory>
#include <optional>
#include <string>

#include "apps/progress.hpp"
#include "apps/run_report.hpp"
#include "apps/stop.hpp"
#include "data/loader.hpp"
#include "train/checkpoint_saver.hpp"
#include "train/step.hpp"

namespace vitrail {

struct LoopPlan {
  std::int64_t last_step = 0;        ///< of the whole run
  Json settings;                     ///< what a checkpoint remembers
  bool is_saved = false;             ///< the state at the start is that of a checkpoint of this run
  bool terminal = false;             ///< progress is one line that is redrawn
  std::optional<EndOfJob> end = {};  ///< on rank 0
  double save_guess_s = 0;           ///< what a save takes, before the first
};

class TrainLoop {
 public:
  /// All of it outlives the loop. `dataset` becomes the loader's.
  TrainLoop(const Log& log, TrainState& state, Trainer& trainer, CheckpointSaver& saver, Dataset dataset,
            LoopPlan plan);

  /// Warms up, takes the steps of this job, and saves; the last save is complete when it returns. Empty: it has done
  /// all its steps. Otherwise the cause for which it stopped early (apps/stop.hpp). The same on all ranks. Collective.
  std::string run();

  [[nodiscard]] const RunTotals& totals() const noexcept { return totals_; }

 private:
  Orders meet();
  void take_step(bool another_follows);
  void write_metrics(const StepReport& report, double step_s, double wait_s);
  void save();
  void report_saves();
  [[nodiscard]] bool saves_at(std::int64_t step) const;
  [[nodiscard]] bool starts_another(std::int64_t step) const;

  const Log& log_;
  TrainState& state_;
  Trainer& trainer_;
  CheckpointSaver& saver_;
  LoopPlan plan_;
  const std::int64_t first_step_;
  const std::int64_t stop_;  // after this step, if nothing happens before
  Loader loader_;
  StopCauses causes_;
  std::optional<MetricsFile> metrics_file_;  // of rank 0
  std::optional<Progress> progress_;         // of rank 0
  RunTotals totals_;
  Stopwatch whole_;
  std::int64_t saved_step_ = -1;  // the last that was given to the saver
  double longest_step_s_ = 0;
  double save_s_;             // what a save takes, as far as is known
  double late_data_s_ = 0;    // waited for data while the save in flight was written
  Json finished_save_;        // of the next line of metrics.jsonl
  std::string why_;           // to stop before all is done
  bool save_is_due_ = false;  // by the clock
};

}  // namespace vitrail
