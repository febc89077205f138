// Golden files of kind=router in which experts choose tokens.

#include <algorithm>
#include <cmath>

#include "apps/golden_config.hpp"
#include "apps/golden_router_case.hpp"
#include "device/host_values.hpp"

namespace vitrail {

namespace {

/// What the original reports of experts that choose: by how many a token is taken, and the gates of those taken.
void add_choice_metrics(const RouterCase& c, GoldenQuantities& out) {
  const std::vector<double> slots = to_doubles(c.slot);
  const std::vector<double> gates = to_doubles(c.gates);
  std::vector<std::int64_t> experts_of_token(static_cast<std::size_t>(c.tokens), 0);
  std::vector<double> taken;
  for (std::size_t i = 0; i < slots.size(); ++i) {
    if (slots[i] < 0) continue;
    ++experts_of_token[i / static_cast<std::size_t>(c.experts)];
    taken.push_back(gates[i]);
  }
  const auto [fewest, most] = std::minmax_element(experts_of_token.begin(), experts_of_token.end());
  const auto [smallest, largest] = std::minmax_element(taken.begin(), taken.end());
  out["metrics/num_experts_per_item_min"] = golden_integer(*fewest);
  out["metrics/num_experts_per_item_max"] = golden_integer(*most);
  out["metrics/min_selected_gate"] = golden_quantity(*smallest);
  out["metrics/max_selected_gate"] = golden_quantity(*largest);
  std::vector<std::int64_t> thresholds{c.experts};
  for (std::int64_t t = 1; t <= c.experts; t *= 2) thresholds.push_back(t);
  for (const std::int64_t t : thresholds) {
    const auto tokens = std::count_if(experts_of_token.begin(), experts_of_token.end(),
                                      [&](std::int64_t experts) { return experts >= t; });
    out[text("metrics/ratio_processed_items_by_at_least_", t, "_experts")] =
        golden_quantity(static_cast<double>(tokens) / static_cast<double>(c.tokens));
  }
}

}  // namespace

// A token has a choice of every expert, K = E.
void run_experts_choice_case(const GoldenBackend& backend, const GoldenFile& file, const std::string& at,
                             const Json& described, GoldenReport& report) {
  ConfigKeys keys(described, "config.cases/" + at);
  RouterCase c{};
  c.groups = 1;
  c.tokens = keys.at("S").as_integer();
  c.experts = keys.at("E").as_integer();
  c.choices = c.experts;
  c.capacity = slots_per_expert(golden_capacity(keys), c.tokens, 1, c.experts);
  c.width = file.shape("/" + at + "/data").at(1);
  for (const char* key : {"case", "gates", "capacity_result"}) keys.ignore(key);
  keys.done();
  compare_capacity(file, at, c, report);

  const RouterMemory memory(backend, c);
  file.read("/" + at + "/gates", c.gates.view({c.tokens, c.experts}));
  file.read("/" + at + "/data", c.data.view({c.tokens, c.width}));
  Ops& ops = backend.ops;
  ops.route_experts_choice({.logits = {},
                            .noise = {},
                            .valid = {},
                            .capacity = c.capacity,
                            .gates_clean = {},
                            .gates = c.gates,
                            .selected = c.selected,
                            .slot = c.slot});
  c.gate = c.gates;
  c.dispatch(ops);
  c.multiply_by_experts();
  c.combine(ops);

  // An expert's slots hold assignments, token * E + expert.
  GoldenQuantities out;
  out["ec_token"] = golden_quantity(c.source, {c.experts, c.capacity});
  out["ec_weight"] = {.values = {}, .shape = out["ec_token"].shape};
  const std::vector<double> gates = to_doubles(c.gates);
  for (double& assignment : out["ec_token"].values) {
    out["ec_weight"].values.push_back(gates.at(static_cast<std::size_t>(assignment)));
    assignment = std::floor(assignment / static_cast<double>(c.experts));
  }
  out["combined"] = without_groups(c.combined);
  add_choice_metrics(c, out);
  file.compare({.name = "/" + at, .required = {"ec_token", "ec_weight", "combined"}, .inputs = {"gates", "data"}}, out,
               golden_tolerances(ops), report);
}

}  // namespace vitrail
