// Golden files of kind=router.

#include <algorithm>
#include <cmath>
#include <functional>

#include "apps/golden_config.hpp"
#include "apps/golden_kinds.hpp"
#include "device/arena.hpp"
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

/// One routing group after another, in tensors of their own.
struct RouterCase {
  std::int64_t groups, tokens, experts, choices, capacity, width;
  Tensor logits, noise, gates_clean, gates;  // [groups S E]
  Tensor selected, slot, row;                // i32 [groups S K]
  Tensor gate, dgate;                        // [groups S K]
  Tensor source;                             // i32 [1 1 E groups*C]
  Tensor data, combined, upstream, d_data;   // [groups S D]
  Tensor rows, outputs, d_rows;              // [E*groups*C D]
  Tensor importance, load, gshard, z;        // [groups]
  Tensor dlogits;                            // [groups S E]

  void lay_out(Arena& arena, Dtype real) {
    for (Tensor* x : {&logits, &noise, &gates_clean, &gates, &dlogits})
      *x = arena.allocate(real, {groups, tokens, experts});
    for (Tensor* x : {&selected, &slot, &row}) *x = arena.allocate(Dtype::i32, {groups, tokens, choices});
    for (Tensor* x : {&gate, &dgate}) *x = arena.allocate(real, {groups, tokens, choices});
    source = arena.allocate(Dtype::i32, {1, 1, experts, groups * capacity});
    for (Tensor* x : {&data, &combined, &upstream, &d_data}) *x = arena.allocate(real, {groups, tokens, width});
    for (Tensor* x : {&rows, &outputs, &d_rows}) *x = arena.allocate(real, {experts * groups * capacity, width});
    for (Tensor* x : {&importance, &load, &gshard, &z}) *x = arena.allocate(real, {groups});
  }
  [[nodiscard]] Tensor by_token(Tensor x) const { return x.view({groups * tokens, x.shape[2]}); }
};

/// Memory for a case, as long as it lives.
class RouterMemory {
 public:
  RouterMemory(const GoldenBackend& backend, RouterCase& router) {
    Arena measured("golden router");
    router.lay_out(measured, backend.ops.real());
    arena_ = std::make_unique<Arena>("golden router", backend.device, measured.bytes());
    router.lay_out(*arena_, backend.ops.real());
  }

 private:
  std::unique_ptr<Arena> arena_;
};

/// data -> rows of the experts.
void dispatch(Ops& ops, RouterCase& c) {
  const Shape by_leaf{1, c.groups, c.tokens, c.choices};
  ops.map_slots({.selected = c.selected.view(by_leaf),
                 .slot = c.slot.view(by_leaf),
                 .capacity = c.capacity,
                 .source = c.source,
                 .row = c.row.view(by_leaf)});
  ops.gather_rows_forward(
      {.x = c.by_token(c.data), .source = c.source.view({c.source.elements()}), .choices = c.choices, .y = c.rows});
}

/// y = f(expert, x) for every number of the rows; on the host, in double.
void apply_experts(const RouterCase& c, ConstTensor from, Tensor to,
                   const std::function<double(std::size_t expert, double x)>& f) {
  std::vector<double> values = to_doubles(from);
  const std::size_t each = values.size() / static_cast<std::size_t>(c.experts);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = f(i / each, values[i]);
  from_doubles(values, to);
}

/// Expert e is y = (e+1) x.
void multiply_by_experts(const RouterCase& c) {
  apply_experts(c, c.rows, c.outputs, [](std::size_t expert, double x) { return static_cast<double>(expert + 1) * x; });
}

void combine(Ops& ops, RouterCase& c) {
  ops.combine_rows_forward({.o = c.outputs,
                            .row = c.by_token(c.row),
                            .gate = c.by_token(c.gate),
                            .residual = {},
                            .y = c.by_token(c.combined)});
}

/// The tensors of a case without groups lose that axis.
GoldenQuantity without_groups(ConstTensor x) { return golden_quantity(x, {x.shape[1], x.shape[2]}); }

void compare_capacity(const GoldenFile& file, const std::string& at, const RouterCase& c, GoldenReport& report) {
  report.compare_exactly(at + ": capacity", std::vector<double>{static_cast<double>(c.capacity)},
                         std::vector<double>{static_cast<double>(file.h5().read_integer("/" + at, "C"))});
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
  file.read("/" + at + "/gates", c.gates.view({c.tokens, c.experts}));
  file.read("/" + at + "/data", c.data.view({c.tokens, c.width}));
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
  dispatch(ops, c);
  multiply_by_experts(c);
  combine(ops, c);

  GoldenQuantities out;
  out["selected_expert"] = without_groups(c.selected);
  out["slot_unclipped"] = without_groups(c.slot);
  out["topk_gate"] = without_groups(c.gate);
  out["slot"] = without_groups(c.slot);
  out["combine_weight"] = without_groups(c.gate);
  for (std::size_t i = 0; i < out["slot"].values.size(); ++i) {
    if (out["slot"].values[i] < static_cast<double>(c.capacity)) continue;
    out["slot"].values[i] = -1;
    out["combine_weight"].values[i] = 0;
  }
  out["expert_buffer"] = golden_quantity(c.rows, {c.experts, c.capacity, c.width});
  out["combined"] = without_groups(c.combined);
  file.compare({.name = "/" + at, .required = {"selected_expert", "slot", "combined"}, .inputs = {"gates", "data"}},
               out, golden_tolerances(ops), report);
}

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

/// Experts choose tokens: a token has a choice of every expert, K = E.
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
  dispatch(ops, c);
  multiply_by_experts(c);
  combine(ops, c);

  // Where an expert's slot has the assignment a = token * E + expert:
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

/// d of one loss, or of the combined outputs, by the clean logits. Each scale is 0 or 1.
GoldenQuantity logits_gradient(Ops& ops, RouterCase& c, Tensor noise, double sigma, double importance, double load,
                               double gshard) {
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
  return golden_gradient(c.dlogits);
}

/// From `upstream`, the gradient of `combined`, to data and gates; expert e is y = tanh((e+1) x).
void combine_backward(Ops& ops, RouterCase& c) {
  ops.combine_rows_backward({.dy = c.by_token(c.upstream),
                             .o = c.outputs,
                             .row = c.by_token(c.row),
                             .source = c.source.view({c.source.elements()}),
                             .gate = c.by_token(c.gate),
                             .d_o = c.d_rows,
                             .dgate = c.by_token(c.dgate)});
  const std::vector<double> y = to_doubles(c.outputs);
  std::vector<double> dx = to_doubles(c.d_rows);
  const std::size_t each = dx.size() / static_cast<std::size_t>(c.experts);
  for (std::size_t i = 0; i < dx.size(); ++i) {
    const std::size_t expert = i / each;
    dx[i] *= (1 - y[i] * y[i]) * static_cast<double>(expert + 1);
  }
  from_doubles(dx, c.d_rows);
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
  for (const auto& [name, tensor] :
       {std::pair{"logits", c.logits}, {"noise", c.noise}, {"data", c.data}, {"upstream", c.upstream}}) {
    file.read("/" + at + "/" + name, tensor);
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
  dispatch(ops, c);
  apply_experts(c, c.rows, c.outputs,
                [](std::size_t expert, double x) { return std::tanh(static_cast<double>(expert + 1) * x); });
  combine(ops, c);

  GoldenQuantities out;
  out["gates_clean"] = golden_quantity(c.gates_clean);
  out["gates_noisy"] = golden_quantity(c.gates);
  out["importance_loss"] = golden_quantity(c.importance);
  out["gshard_loss"] = golden_quantity(c.gshard);
  if (noise) out["load_loss"] = golden_quantity(c.load);
  out["combined"] = golden_quantity(c.combined);
  backend.device.zero(c.dgate);
  out["d_importance_loss"] = logits_gradient(ops, c, noise, parsed.sigma, 1, 0, 0);
  if (noise) out["d_load_loss"] = logits_gradient(ops, c, noise, parsed.sigma, 0, 1, 0);
  out["d_gshard_loss"] = logits_gradient(ops, c, noise, parsed.sigma, 0, 0, 1);
  combine_backward(ops, c);
  out["d_combined_logits"] = logits_gradient(ops, c, noise, parsed.sigma, 0, 0, 0);
  out["d_combined_data"] = golden_gradient(c.d_data);
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
