#pragma once
// What vitrail-bench step tells: as tables and as one JSON object.

#include <optional>
#include <vector>

#include "apps/bench_options.hpp"
#include "apps/bench_profile.hpp"
#include "train/step.hpp"

namespace vitrail {

struct StepSettings {
  BenchSettings bench;
  std::int64_t steps = 10;
  std::int64_t warmup = 2;
  double learning_rate = 1e-4;
  bool profile = true;
  std::optional<double> peak_tflops;
};

struct StepResult {
  std::vector<double> step_s;  ///< of the slowest rank
  double profiled_s = 0;       ///< this rank, all steps of the profile together
  std::int64_t profiled_steps = 0;
  double first_step_s = 0;
  double bytes_before = 0;      ///< resident on this rank before anything of the model was allocated
  double peak_bytes = 0;        ///< the largest of a rank
  double peak_bytes_total = 0;  ///< over ranks
  MemoryInUse gpu;              ///< of this rank's, after the steps
  double loss_first = 0;
  double loss_last = 0;
  StepReport last;
  std::int64_t tensors = 0;
  std::int64_t tensors_changed = 0;
};

struct StepSpeed {
  double images_per_s = 0;
  double gflops = 0;       ///< useful ones, of all ranks
  double peak_gflops = 0;  ///< measured
  double fraction = 0;     ///< of that
  double copy_GBps = 0;
  double vendor_gflops = 0;  ///< 0: not known
  [[nodiscard]] double mfu() const { return vendor_gflops > 0 ? gflops / vendor_gflops : 0; }
};

Json to_json(const StepSettings& settings, const Machine& machine, const TrainState& state, const StepResult& result,
             const StepSpeed& speed);
void print(const Log& log, const StepSettings& settings, const TrainState& state, const StepResult& result,
           const StepSpeed& speed);
/// `executed`: GFLOP of matrix products in a step of all ranks.
void print_profiles(const Log& log, const Profile& profile, double profiled_steps, double executed,
                    const TrainState& state);

}  // namespace vitrail
