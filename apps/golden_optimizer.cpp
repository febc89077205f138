// Golden files of kind=optimizer and kind=schedule.

#include <cmath>

#include "apps/golden_config.hpp"
#include "apps/golden_kinds.hpp"
#include "apps/golden_update.hpp"
#include "device/host_values.hpp"

namespace vitrail {

namespace {

/// One entry for every tensor of /params.
std::vector<ParameterSpec> table_of(const GoldenFile& file) {
  std::vector<ParameterSpec> table;
  for (const std::string& name : file.h5().datasets_below("/params")) {
    ParameterSpec spec;
    spec.name = name;
    spec.shape = Shape(std::span<const std::int64_t>(file.shape("/params/" + name)));
    table.push_back(std::move(spec));
  }
  return table;
}

void compare_schedule(const GoldenFile& file, const JsonMember& described, const std::vector<double>& steps,
                      std::int64_t total_steps, GoldenReport& report) {
  const std::string name = "/learning_rate/" + described.key;
  const Schedule schedule = golden_schedule(described.value, "schedules/" + described.key, total_steps);
  std::vector<double> expected = file.reals(name);
  std::vector<double> computed;
  for (const double step : steps) computed.push_back(learning_rate(schedule, static_cast<std::int64_t>(step)));
  // Past its end the original's rsqrt turns negative; ours stays at 0.
  for (std::size_t i = 0; i < computed.size() && schedule.kind == ScheduleKind::rsqrt; ++i) {
    if (steps[i] > static_cast<double>(schedule.total_steps)) computed[i] = expected.at(i) = 0;
  }
  report.compare(name, computed, expected, largest_magnitude(expected), 1e-9);
}

}  // namespace

void run_golden_optimizer(const GoldenBackend& backend, const GoldenFile& file, GoldenReport& report) {
  ConfigKeys keys(file.config(), "config");
  const std::int64_t steps = keys.at("steps").as_integer();
  const GoldenOptimizer golden =
      golden_optimizer(keys.at("optimizer"), "optimizer", keys.at("total_steps").as_integer());
  keys.done();

  const std::vector<ParameterSpec> table = table_of(file);
  const FlatParameters parameters(backend.device, backend.ops.real(), table);
  const FlatParameters gradients(backend.device, backend.ops.real(), table);
  read_parameters(file, "/params", table, parameters);
  GoldenUpdate update(backend, golden, table, parameters);
  GoldenTrajectory trajectory(file, table);
  for (std::int64_t step = 0; step < steps; ++step) {
    for (std::size_t i = 0; i < table.size(); ++i) {
      from_doubles(file.reals_at("/grads/" + table[i].name, step), backend.device, gradients.tensors()[i]);
    }
    trajectory.add(update.apply(backend.ops, gradients, parameters), parameters);
  }
  const GoldenTolerances tolerances = golden_tolerances(backend.ops);
  trajectory.compare_parameters(tolerances.trajectories, false, report);
  GoldenQuantities out;
  out["learning_rate"] = trajectory.learning_rates();
  out["global_norm_grads"] = trajectory.gradient_norms();
  out["global_norm_updates"] = trajectory.update_norms();
  for (const auto& [name, quantity] : out) {
    const bool norm = quantity.kind == GoldenQuantity::Kind::gradient;
    const std::vector<double> expected = file.reals("/" + name);
    report.compare("/" + name, quantity.values, expected, largest_magnitude(expected),
                   norm ? tolerances.gradients : tolerances.outputs);
  }
}

void run_golden_schedule(const GoldenFile& file, GoldenReport& report) {
  ConfigKeys keys(file.config(), "config");
  const std::int64_t total_steps = keys.at("total_steps").as_integer();
  const Json& schedules = keys.at("schedules");
  keys.done();
  const std::vector<double> steps = file.reals("/step");
  for (const JsonMember& member : schedules.members()) {
    try {
      compare_schedule(file, member, steps, total_steps, report);
    } catch (const Unsupported& missing) {  // the other schedules may well be supported
      report.unsupported(missing.what());
    }
  }
  for (const std::string& name : file.h5().datasets_below("/learning_rate")) {
    if (!schedules.has(name)) report.unsupported("/learning_rate/" + name + ", which config does not describe");
  }
}

}  // namespace vitrail
