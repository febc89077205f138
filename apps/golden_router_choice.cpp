// Golden files of kind=router in which experts choose tokens.

#include "apps/golden_config.hpp"
#include "apps/golden_experts_choice.hpp"
#include "apps/golden_router_case.hpp"

namespace vitrail {

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
  Device& device = backend.device;
  file.read("/" + at + "/gates", device, c.gates.view({c.tokens, c.experts}));
  file.read("/" + at + "/data", device, c.data.view({c.tokens, c.width}));
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
  c.multiply_by_experts(device);
  c.combine(ops);

  GoldenQuantities out;
  add_experts_choice(device, c.slot, c.gates, c.capacity, "", out);
  for (const char* name : {"ec_token", "ec_weight"}) out[name].shape = {c.experts, c.capacity};  // there are no groups
  out["combined"] = without_groups(device, c.combined);
  file.compare({.name = "/" + at, .required = {"ec_token", "ec_weight", "combined"}, .inputs = {"gates", "data"}}, out,
               golden_tolerances(ops), report);
}

}  // namespace vitrail
