// Golden files of kind=router.

#include <cmath>

#include "apps/golden_config.hpp"
#include "apps/golden_kinds.hpp"
#include "apps/golden_router_case.hpp"
#include "device/host_values.hpp"

namespace vitrail {

namespace {

/// Names of the groups case_000, case_001 ... of a file, which stand in the same order in config.cases.
std::vector<std::string> cases_of(const GoldenFile& file) {
  std::vector<std::string> names;
  for (const h5::Child& child : file.h5().children("/")) {
    if (child.is_group && child.name.starts_with("case_")) names.push_back(child.name);
  }
  const Json* const described = file.config().find("cases");
  VITRAIL_EXPECT(described != nullptr && described->items().size() == names.size(), ExitCode::data,
                 text("'", file.h5().path(), "' has ", names.size(), " cases"),
                 "config.cases describes another number of them", "");
  return names;
}

void run_top_k_case(const GoldenBackend& backend, const GoldenFile& file, const std::string& at, const Json& described,
                    GoldenReport& report) {
  ConfigKeys keys(described, "config.cases/" + at);
  RouterCase c{};
  c.groups = 1;
  c.tokens = keys.at("S").as_integer();
  c.experts = keys.at("E").as_integer();
  c.choices = keys.at("num_selected_experts").as_integer();
  const bool prioritized = keys.boolean("batch_priority", false);
  c.capacity = slots_per_expert(golden_capacity(keys), c.tokens, c.choices, c.experts);
  c.width = file.shape("/" + at + "/data").at(1);
  for (const char* key : {"case", "gates", "capacity_result"}) keys.ignore(key);
  keys.done();
  compare_capacity(file, at, c, report);

  const RouterMemory memory(backend, c);
  Device& device = backend.device;
  file.read("/" + at + "/gates", device, c.gates.view({c.tokens, c.experts}));
  file.read("/" + at + "/data", device, c.data.view({c.tokens, c.width}));
  Ops& ops = backend.ops;
  ops.route_top_k({.logits = {},
                   .noise = {},
                   .noise_std = 0,
                   .valid = {},
                   .order = prioritized ? TokenOrder::prioritized : TokenOrder::vanilla,
                   .gates_clean = {},
                   .gates = c.gates,
                   .selected = c.selected,
                   .slot = c.slot,
                   .gate = c.gate});
  c.dispatch(ops);
  c.multiply_by_experts(device);
  c.combine(ops);

  GoldenQuantities out;
  out["selected_expert"] = without_groups(device, c.selected);
  out["slot_unclipped"] = without_groups(device, c.slot);
  out["topk_gate"] = without_groups(device, c.gate);
  out["slot"] = without_groups(device, c.slot);
  out["combine_weight"] = without_groups(device, c.gate);
  for (std::size_t i = 0; i < out["slot"].values.size(); ++i) {
    if (out["slot"].values[i] < static_cast<double>(c.capacity)) continue;
    out["slot"].values[i] = -1;
    out["combine_weight"].values[i] = 0;
  }
  out["expert_buffer"] = golden_quantity(device, c.rows, {c.experts, c.capacity, c.width});
  out["combined"] = without_groups(device, c.combined);
  file.compare({.name = "/" + at, .required = {"selected_expert", "slot", "combined"}, .inputs = {"gates", "data"}},
               out, golden_tolerances(ops), report);
}

/// d of one loss, or of the combined outputs, by the clean logits. Each scale is 0 or 1.
GoldenQuantity logits_gradient(Ops& ops, Device& device, RouterCase& c, Tensor noise, double sigma, double importance,
                               double load, double gshard) {
  ops.router_backward({.dgate = c.dgate,
                       .logits = c.logits,
                       .noise = noise,
                       .noise_std = sigma,
                       .gates_clean = c.gates_clean,
                       .gates = c.gates,
                       .selected = c.selected,
                       .importance_scale = importance,
                       .load_scale = load,
                       .gshard_scale = gshard,
                       .dlogits = c.dlogits});
  return golden_gradient(device, c.dlogits);
}

/// From `upstream`, the gradient of `combined`, to data and gates; expert e is y = tanh((e+1) x).
void combine_backward(Ops& ops, Device& device, RouterCase& c) {
  ops.combine_rows_backward({.dy = c.by_token(c.upstream),
                             .o = c.outputs,
                             .row = c.by_token(c.row),
                             .source = c.source.view({c.source.elements()}),
                             .gate = c.by_token(c.gate),
                             .d_o = c.d_rows,
                             .dgate = c.by_token(c.dgate)});
  const std::vector<double> y = to_doubles(device, c.outputs);
  std::vector<double> dx = to_doubles(device, c.d_rows);
  const std::size_t each = dx.size() / static_cast<std::size_t>(c.experts);
  for (std::size_t i = 0; i < dx.size(); ++i) {
    const std::size_t expert = i / each;
    dx[i] *= (1 - y[i] * y[i]) * static_cast<double>(expert + 1);
  }
  from_doubles(dx, device, c.d_rows);
  ops.gather_rows_backward({.dy = c.d_rows, .row = c.by_token(c.row), .dresidual = {}, .dx = c.by_token(c.d_data)});
}

struct AuxiliaryCase {
  RouterCase router;
  double sigma = 0;
  bool prioritized = false;
};

AuxiliaryCase parse_auxiliary_case(const GoldenFile& file, const std::string& at, const Json& described) {
  ConfigKeys keys(described, "config.cases/" + at);
  AuxiliaryCase parsed;
  RouterCase& c = parsed.router;
  c.groups = keys.at("G").as_integer();
  c.tokens = keys.at("S").as_integer();
  c.experts = keys.at("E").as_integer();
  c.choices = keys.at("num_selected_experts").as_integer();
  parsed.sigma = keys.real("noise_std", 1.0) / static_cast<double>(c.experts);
  parsed.prioritized = keys.boolean("batch_priority", false);
  c.capacity = slots_per_expert(golden_capacity(keys), c.tokens, c.choices, c.experts);
  c.width = file.shape("/" + at + "/data").at(2);
  keys.ignore("case");
  keys.done();
  return parsed;
}

void run_auxiliary_case(const GoldenBackend& backend, const GoldenFile& file, const std::string& at,
                        const Json& described, GoldenReport& report) {
  AuxiliaryCase parsed = parse_auxiliary_case(file, at, described);
  RouterCase& c = parsed.router;
  const RouterMemory memory(backend, c);
  Device& device = backend.device;
  for (const auto& [name, tensor] :
       {std::pair{"logits", c.logits}, {"noise", c.noise}, {"data", c.data}, {"upstream", c.upstream}}) {
    file.read("/" + at + "/" + name, device, tensor);
  }
  Ops& ops = backend.ops;
  const Tensor noise = parsed.sigma > 0 ? c.noise : Tensor();
  ops.route_top_k({.logits = c.logits,
                   .noise = noise,
                   .noise_std = parsed.sigma,
                   .valid = {},
                   .order = parsed.prioritized ? TokenOrder::prioritized : TokenOrder::vanilla,
                   .gates_clean = c.gates_clean,
                   .gates = c.gates,
                   .selected = c.selected,
                   .slot = c.slot,
                   .gate = c.gate});
  ops.router_losses_forward({.logits = c.logits,
                             .noise = noise,
                             .noise_std = parsed.sigma,
                             .gates_clean = c.gates_clean,
                             .gates = c.gates,
                             .selected = c.selected,
                             .valid = {},
                             .importance = c.importance,
                             .load = c.load,
                             .gshard = c.gshard,
                             .z = c.z});
  c.dispatch(ops);
  c.apply_experts(device, [](std::size_t expert, double x) { return std::tanh(static_cast<double>(expert + 1) * x); });
  c.combine(ops);

  GoldenQuantities out;
  out["gates_clean"] = golden_quantity(device, c.gates_clean);
  out["gates_noisy"] = golden_quantity(device, c.gates);
  out["importance_loss"] = golden_quantity(device, c.importance);
  out["gshard_loss"] = golden_quantity(device, c.gshard);
  if (noise) out["load_loss"] = golden_quantity(device, c.load);
  out["combined"] = golden_quantity(device, c.combined);
  device.zero(c.dgate);
  out["d_importance_loss"] = logits_gradient(ops, device, c, noise, parsed.sigma, 1, 0, 0);
  if (noise) out["d_load_loss"] = logits_gradient(ops, device, c, noise, parsed.sigma, 0, 1, 0);
  out["d_gshard_loss"] = logits_gradient(ops, device, c, noise, parsed.sigma, 0, 0, 1);
  combine_backward(ops, device, c);
  out["d_combined_logits"] = logits_gradient(ops, device, c, noise, parsed.sigma, 0, 0, 0);
  out["d_combined_data"] = golden_gradient(device, c.d_data);
  file.compare({.name = "/" + at,
                .required = {"importance_loss", "combined", "d_importance_loss", "d_combined_logits"},
                .inputs = {"logits", "noise", "data", "upstream"}},
               out, golden_tolerances(ops), report);
}

/// Every row of the table of capacities; -1 stands for an error.
void run_capacity(const GoldenFile& file, GoldenReport& report) {
  const auto read = [&](const char* name) { return file.reals(std::string("/") + name); };
  const std::vector<double> tokens = read("group_size");
  const std::vector<double> selected = read("num_selected_experts");
  const std::vector<double> experts = read("num_experts");
  const std::vector<double> factor = read("capacity_factor");
  const std::vector<double> nearest = read("round_to_nearest");
  const std::vector<double> multiple = read("multiple_of");
  std::vector<double> computed;
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    Capacity capacity;
    capacity.factor = factor[i];
    capacity.rounding = nearest[i] != 0 ? Capacity::Rounding::nearest : Capacity::Rounding::ceil;
    capacity.multiple_of = static_cast<std::int64_t>(multiple[i]);
    try {
      computed.push_back(static_cast<double>(slots_per_expert(capacity, static_cast<std::int64_t>(tokens[i]),
                                                              static_cast<std::int64_t>(selected[i]),
                                                              static_cast<std::int64_t>(experts[i]))));
    } catch (const Error&) {
      computed.push_back(-1);
    }
  }
  report.compare_exactly("/capacity", computed, read("capacity"));
}

}  // namespace

void run_golden_router(const GoldenBackend& backend, const GoldenFile& file, GoldenReport& report) {
  if (file.h5().has("/capacity")) return run_capacity(file, report);
  const std::vector<std::string> names = cases_of(file);
  if (names.empty()) throw Unsupported("a router file without cases");
  for (std::size_t i = 0; i < names.size(); ++i) {
    const Json& described = file.config().at("cases").items()[i];
    const std::string at = "/" + names[i];
    try {
      if (file.h5().has(at + "/ec_token")) {
        run_experts_choice_case(backend, file, names[i], described, report);
      } else if (file.h5().has(at + "/logits")) {
        run_auxiliary_case(backend, file, names[i], described, report);
      } else {
        run_top_k_case(backend, file, names[i], described, report);
      }
    } catch (const Unsupported& missing) {  // the other cases may well be supported
      report.unsupported(missing.what());
    }
  }
}

}  // namespace vitrail
