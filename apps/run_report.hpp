#pragma once
// What a run says at its start and at its end, and small things that its programs share.

#include <cstdint>

#include "base/log.hpp"
#include "comm/mpi/mpi.hpp"
#include "data/loader.hpp"
#include "train/step.hpp"

namespace vitrail {

/// Error (data) unless the image shape is the model's.
void expect_images_fit(const Dataset& dataset, const ModelConfig& model);
/// Error (data) unless image shape and classes are the model's.
void expect_data_fits(const Dataset& dataset, const ModelConfig& model);

/// A block's images and labels into the pass's input tensors.
void copy_block(const ImageBlock& block, Tensor raw_images, Tensor labels);

Json layout_json(const Layout& layout);

/// Versions, ranks and their places, layout, model, memory by class. Collective.
void report_start(const Log& log, MpiSession& session, const TrainState& state, const std::string& data,
                  std::int64_t images, std::int64_t last_step);

/// Sums over the steps of this job.
struct RunTotals {
  std::int64_t steps = 0;
  double train_s = 0;  ///< checkpoints included
  double step_s = 0;
  double data_wait_s = 0;
  double save_s = 0;
  double loss = 0;  ///< running mean of the last 100 steps or so
  double accuracy = 0;
  double drop_rate = 0;
  double load_imbalance = 1;
  std::string digest;  ///< of the last checkpoint; empty: not asked for

  void add(const StepReport& report, double step_seconds, double wait_seconds);
};

/// Prints the closing lines and writes RUN/summary.json, one key a line. `gemm_peak` in GFLOP/s over all ranks.
void report_end(const Log& log, const RunConfig& config, const TrainState& state, const RunTotals& totals,
                double gemm_peak);

}  // namespace vitrail
