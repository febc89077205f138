// Golden files of kind=trajectory.

#include <algorithm>
#include <numeric>

#include "apps/golden_kinds.hpp"
#include "apps/golden_update.hpp"
#include "device/host_values.hpp"

namespace vitrail {

namespace {

/// Sums over micro-batches of what the metrics are means of.
using Metrics = std::map<std::string, double>;

/// Rows micro, micro + m, micro + 2m ... of entry `step` of a dataset [steps batch ...].
void read_micro_batch(const GoldenFile& file, const std::string& dataset, std::int64_t step, std::int64_t micro,
                      std::int64_t microsteps, Device& device, Tensor to) {
  const std::vector<double> batch = file.reals_at(dataset, step);
  const auto row = static_cast<std::size_t>(to.elements() / to.shape[0]);
  std::vector<double> chosen;
  for (auto i = static_cast<std::size_t>(micro); (i + 1) * row <= batch.size();
       i += static_cast<std::size_t>(microsteps))
    chosen.insert(chosen.end(), batch.begin() + static_cast<std::ptrdiff_t>(i * row),
                  batch.begin() + static_cast<std::ptrdiff_t>((i + 1) * row));
  from_doubles(chosen, device, to);
}

void add_metrics(GoldenPass& pass, Metrics& sums) {
  sums["main_loss"] += pass.mean_loss();
  sums["auxiliary_loss"] += pass.auxiliary_loss(Mode::training);
  sums["total_loss"] += pass.mean_loss() + pass.auxiliary_loss(Mode::training);
  for (const std::int64_t block : pass.config().moe_blocks) {
    const MoeActivations& moe = pass.acts().blocks[static_cast<std::size_t>(block)].moe;
    const std::string at = block_name(block) + "/";
    sums[at + "importance_loss"] += mean_of(pass.values(moe.importance));
    sums[at + "gshard_loss"] += mean_of(pass.values(moe.gshard));
    sums[at + "auxiliary_loss"] += mean_of(pass.auxiliary_loss(block, Mode::training));
    if (pass.noisy()) sums[at + "load_loss"] += mean_of(pass.values(moe.load));
  }
}

/// What a training step works on.
struct Trainer {
  const GoldenBackend& backend;
  const GoldenFile& file;
  const GoldenModel& golden;
  std::int64_t microsteps;
  const FlatParameters& gradients;       ///< of the step
  const FlatParameters& pass_gradients;  ///< of one micro-batch
  GoldenPass& pass;
};

void accumulate(Ops& ops, const FlatParameters& from, const FlatParameters& to) {
  if (to.dense().elements() > 0) ops.accumulate({.x = from.dense(), .y = to.dense()});
  if (to.expert().elements() > 0) ops.accumulate({.x = from.expert(), .y = to.expert()});
}

/// Forward and backward of every micro-batch of a step: the gradients are those of the mean over all its images.
void run_step(const Trainer& t, std::int64_t step, Metrics& sums) {
  const ModelConfig& c = t.golden.training;
  Device& device = t.backend.device;
  const double groups = c.moe_blocks.empty()
                            ? 1.0
                            : static_cast<double>(t.golden.batch * c.tokens()) / static_cast<double>(c.group_tokens());
  device.zero(t.gradients.dense());
  device.zero(t.gradients.expert());
  for (std::int64_t micro = 0; micro < t.microsteps; ++micro) {
    read_micro_batch(t.file, "/batch/images", step, micro, t.microsteps, device, t.pass.acts().images);
    read_micro_batch(t.file, "/batch/labels", step, micro, t.microsteps, device, t.pass.acts().targets);
    for (const std::int64_t block : c.moe_blocks) {
      if (!t.pass.noisy()) continue;
      from_doubles(t.file.reals_at("/noise/" + block_name(block), step), device,
                   t.pass.acts().blocks[static_cast<std::size_t>(block)].moe.noise);
    }
    t.pass.forward(Mode::training, t.golden.loss, 1.0 / static_cast<double>(t.golden.batch));
    t.pass.backward(1.0 / groups, t.pass_gradients);
    accumulate(t.backend.ops, t.pass_gradients, t.gradients);
    add_metrics(t.pass, sums);
  }
}

}  // namespace

void run_golden_trajectory(const GoldenBackend& backend, const GoldenFile& file, GoldenReport& report) {
  if (backend.force_routing) throw Unsupported("trajectories without the routing of every step");
  ConfigKeys keys(file.config(), "config");
  const GoldenModel golden = golden_model(keys);
  const std::int64_t steps = keys.at("steps").as_integer();
  const std::int64_t microsteps = std::max<std::int64_t>(1, keys.integer("microsteps", 1));
  const GoldenOptimizer optimizer =
      golden_optimizer(keys.at("optimizer"), "optimizer", keys.at("total_steps").as_integer());
  keys.done();
  if (golden.batch % microsteps != 0) throw Unsupported("a batch that is not divisible into its micro-batches");

  const std::vector<ParameterSpec> table = parameter_table(golden.training);
  const Dtype real = backend.ops.real();
  const FlatParameters parameters(backend.device, real, table);
  const FlatParameters gradients(backend.device, real, table);
  const FlatParameters pass_gradients(backend.device, real, table);
  read_parameters(file, "/params", table, parameters);
  GoldenPass pass(backend, golden.training, golden.batch / microsteps, table, parameters);
  GoldenUpdate update(backend, optimizer, table, parameters);
  const Trainer trainer{backend, file, golden, microsteps, gradients, pass_gradients, pass};

  GoldenTrajectory trajectory(file, table);
  GoldenQuantities metrics;
  for (std::int64_t step = 0; step < steps; ++step) {
    Metrics sums;
    run_step(trainer, step, sums);
    for (const auto& [name, sum] : sums) metrics[name].values.push_back(sum / static_cast<double>(microsteps));
    trajectory.add(update.apply(backend.ops, gradients, parameters), parameters);
  }
  for (auto& [name, quantity] : metrics) quantity.shape = {steps};
  metrics["global_norm/grads"] = trajectory.gradient_norms();
  metrics["global_norm/updates"] = trajectory.update_norms();
  metrics["global_norm/params"] = trajectory.parameter_norms();

  const GoldenTolerances tolerances = golden_tolerances(backend.ops);
  file.compare({.name = "/metrics", .required = {"main_loss", "total_loss", "global_norm/grads"}}, metrics, tolerances,
               report);
  const std::vector<double> rates = file.reals("/learning_rate");
  report.compare("/learning_rate", trajectory.learning_rates().values, rates, largest_magnitude(rates), 1e-9);
  const bool divides_round_off = optimizer.optimizer.kind != OptimizerKind::sgd;
  trajectory.compare_parameters(tolerances.trajectories, divides_round_off, report);
}

}  // namespace vitrail
