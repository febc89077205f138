// Golden files of kind=model.

#include <algorithm>

#include "apps/golden_experts_choice.hpp"
#include "apps/golden_kinds.hpp"
#include "apps/golden_run.hpp"
#include "apps/golden_update.hpp"
#include "device/host_values.hpp"

namespace vitrail {

namespace {

/// slot and combine_weight as the files have them: -1 and 0 for the dropped.
void add_choices(Device& device, const MoeActivations& moe, std::int64_t capacity, const std::string& at,
                 GoldenQuantities& out) {
  out[at + "selected_expert"] = golden_quantity(device, moe.selected);
  out[at + "slot_unclipped"] = golden_quantity(device, moe.slot);
  out[at + "topk_gate"] = golden_quantity(device, moe.gate);
  GoldenQuantity slot = golden_quantity(device, moe.slot);
  GoldenQuantity weight = golden_quantity(device, moe.gate);
  std::int64_t dropped = 0;
  for (std::size_t i = 0; i < slot.values.size(); ++i) {
    if (slot.values[i] < static_cast<double>(capacity)) continue;
    slot.values[i] = -1;
    weight.values[i] = 0;
    ++dropped;
  }
  out[at + "slot"] = std::move(slot);
  out[at + "combine_weight"] = std::move(weight);
  out[at + "dropped"] = golden_integer(dropped);
  out[at + "capacity"] = golden_integer(capacity);
}

/// What came out of the sparse layer of a block, under "moe/<block>/".
void add_moe(GoldenPass& pass, std::int64_t block, Mode mode, GoldenQuantities& out) {
  const ModelConfig& c = pass.config();
  Device& device = pass.device();
  const BlockActivations& acts = pass.acts().blocks[static_cast<std::size_t>(block)];
  const MoeActivations& moe = acts.moe;
  const std::string at = "moe/" + block_name(block) + "/";
  out[at + "gates_clean"] = golden_quantity(device, moe.gates_clean);
  out[at + "importance_loss"] = golden_quantity(device, moe.importance);
  out[at + "gshard_loss"] = golden_quantity(device, moe.gshard);
  const std::vector<double> auxiliary = pass.auxiliary_loss(block, mode);
  out[at + "auxiliary_loss"] = {auxiliary, {static_cast<std::int64_t>(auxiliary.size())}};
  if (c.router.kind == RouterKind::experts_choice) {
    add_experts_choice(device, moe.slot, moe.gates, c.slots(), at, out);
  } else {
    add_choices(device, moe, c.slots(), at, out);
  }
  if (mode == Mode::evaluation) return;
  out[at + "gates_noisy"] = golden_quantity(device, moe.gates);
  if (pass.noisy()) out[at + "load_loss"] = golden_quantity(device, moe.load);
  GoldenQuantity layer = golden_quantity(device, acts.x, {pass.acts().shape.leaf_images, c.tokens(), c.width});
  const std::vector<double> residual = pass.values(acts.middle);
  for (std::size_t i = 0; i < residual.size(); ++i) layer.values[i] -= residual[i];
  out[at + "layer_output"] = std::move(layer);
}

GoldenQuantities training_outputs(GoldenPass& pass) {
  const ModelConfig& c = pass.config();
  Device& device = pass.device();
  Activations& acts = pass.acts();
  const Shape stream{acts.shape.leaf_images, c.tokens(), c.width};
  GoldenQuantities out;
  out["logits"] = golden_quantity(device, acts.logits);
  out["loss_main"] = golden_quantity(pass.mean_loss());
  out["auxiliary_loss"] = golden_quantity(pass.auxiliary_loss(Mode::training));
  out["total_loss"] = golden_quantity(pass.mean_loss() + pass.auxiliary_loss(Mode::training));
  out["encoded"] = golden_quantity(device, acts.encoder_norm.y, stream);
  out["pre_logits_linear"] = golden_quantity(device, c.representation > 0 ? acts.pre_linear : acts.pre_logits);
  for (std::int64_t block = 0; block < c.blocks; ++block) {
    out["blocks/" + block_name(block)] =
        golden_quantity(device, acts.blocks[static_cast<std::size_t>(block)].x, stream);
  }
  for (const std::int64_t block : c.moe_blocks) add_moe(pass, block, Mode::training, out);
  return out;
}

GoldenQuantities evaluation_outputs(GoldenPass& pass) {
  GoldenQuantities out;
  out["logits"] = golden_quantity(pass.device(), pass.acts().logits);
  out["loss_main"] = golden_quantity(pass.mean_loss());
  for (const std::int64_t block : pass.config().moe_blocks) add_moe(pass, block, Mode::evaluation, out);
  return out;
}

/// Names that no file of this kind is without.
std::vector<std::string> required(const ModelConfig& c, std::vector<std::string> names) {
  for (const std::int64_t block : c.moe_blocks) {
    const std::vector<const char*> all =
        c.router.kind == RouterKind::experts_choice
            ? std::vector<const char*>{"gates_clean", "ec_token", "ec_weight"}
            : std::vector<const char*>{"gates_clean", "selected_expert", "slot", "combine_weight", "auxiliary_loss"};
    for (const char* name : all) names.push_back("moe/" + block_name(block) + "/" + name);
  }
  return names;
}

void read_batch(const GoldenFile& file, GoldenPass& pass) {
  file.read("/batch/images", pass.device(), pass.acts().images);
  file.read("/batch/labels", pass.device(), pass.acts().targets);
}

/// Where rows travel in bfloat16, f32 may round a value on the boundary between two the other way: by 2^-8 of it.
GoldenTolerances tolerances_of(const Ops& ops, const GoldenModel& golden) {
  GoldenTolerances tolerances = golden_tolerances(ops);
  const bool rounded = golden.training.router.exchange_bf16 || golden.evaluation.router.exchange_bf16;
  if (!rounded || ops.real() == Dtype::f64) return tolerances;
  tolerances.outputs = std::max(tolerances.outputs, 1e-2);
  tolerances.gradients = std::max(tolerances.gradients, 1e-2);
  return tolerances;
}

/// The choices of the file instead of one's own; `at` is "/out" or "/eval".
void force_routing(const GoldenFile& file, const std::string& at, GoldenPass& pass) {
  const ModelConfig& c = pass.config();
  for (const std::int64_t block : c.moe_blocks) {
    const MoeActivations& moe = pass.acts().blocks[static_cast<std::size_t>(block)].moe;
    const std::string group = at + "/moe/" + block_name(block) + "/";
    if (c.router.kind == RouterKind::experts_choice) {
      choices_of_experts(file.reals(group + "ec_token"), pass.device(), moe.selected, moe.slot);
    } else {
      file.read_integers(group + "selected_expert", pass.device(), moe.selected);
      file.read_integers(group + "slot_unclipped", pass.device(), moe.slot);
    }
  }
  pass.acts().forced = true;
}

/// How many decisions would have been those of the file.
void report_decisions(const GoldenFile& file, const std::string& at, GoldenPass& pass, GoldenReport& report) {
  const bool experts_choose = pass.config().router.kind == RouterKind::experts_choice;
  for (const std::int64_t block : pass.config().moe_blocks) {
    const MoeActivations& moe = pass.acts().blocks[static_cast<std::size_t>(block)].moe;
    const std::string group = at + "/moe/" + block_name(block) + "/";
    const std::vector<double> computed =
        experts_choose ? tokens_of_experts(pass.device(), moe.slot, pass.config().slots()) : pass.values(moe.selected);
    const std::string name = group + (experts_choose ? "ec_token" : "selected_expert");
    report.equal_share(name, computed, file.reals(name));
  }
}

/// One pass, with the routing of the file where the back end needs it.
void forward(const GoldenBackend& backend, const GoldenFile& file, const std::string& at, GoldenPass& pass, Mode mode,
             Loss loss, GoldenReport& report) {
  const double image_scale = 1.0 / static_cast<double>(pass.acts().shape.leaf_images);
  pass.forward(mode, loss, image_scale);
  if (!backend.force_routing || pass.config().moe_blocks.empty()) return;
  report_decisions(file, at, pass, report);
  force_routing(file, at, pass);
  pass.forward(mode, loss, image_scale);
}

/// Gradients that are zero in exact arithmetic are sums of what rounding leaves. Where the summands are kept in bf16
/// that is no small part of the file's own rest, and only shown.
void compare_gradients(const GoldenBackend& backend, const GoldenFile& file, const std::vector<ParameterSpec>& table,
                       const FlatParameters& gradients, const GoldenTolerances& tolerances, GoldenReport& report) {
  const bool rests_are_large = backend.ops.stored() == Dtype::bf16;
  std::vector<std::string> shown;
  GoldenQuantities computed;
  std::vector<std::string> names;
  double largest = 0;
  for (std::size_t i = 0; i < table.size(); ++i) {
    names.push_back(table[i].name);
    computed[table[i].name] = golden_gradient(gradients.device(), gradients.tensors()[i]);
    if (!file.h5().has("/grads/" + table[i].name)) continue;
    if (rests_are_large && has_zero_gradient(table[i].name)) {
      shown.push_back(table[i].name);
      report.zero_gradient("/grads/" + table[i].name, computed[table[i].name].values,
                           file.reals("/grads/" + table[i].name));
    }
    largest = std::max(largest, largest_magnitude(file.reals("/grads/" + table[i].name)));
  }
  const auto scale = [largest](const std::vector<double>& expected) {
    return std::max(largest_magnitude(expected), 1e-3 * largest);
  };
  file.compare({.name = "/grads", .required = names, .inputs = shown, .scale = scale}, computed, tolerances, report);
}

}  // namespace

void run_golden_model(const GoldenBackend& backend, const GoldenFile& file, GoldenReport& report) {
  ConfigKeys keys(file.config(), "config");
  const GoldenModel golden = golden_model(keys);
  keys.done();
  const GoldenTolerances tolerances = tolerances_of(backend.ops, golden);
  report.compare_exactly("config/num_tokens", std::vector<double>{static_cast<double>(golden.training.tokens())},
                         std::vector<double>{static_cast<double>(golden.tokens)});

  const std::vector<ParameterSpec> table = parameter_table(golden.training);
  const FlatParameters parameters(backend.device, backend.ops.real(), table);
  const FlatParameters gradients(backend.device, backend.ops.real(), table);
  read_parameters(file, "/params", table, parameters);

  GoldenPass training(backend, golden.training, golden.batch, table, parameters);
  read_batch(file, training);
  if (training.noisy()) {
    for (const std::int64_t block : golden.training.moe_blocks) {
      file.read("/noise/" + block_name(block), backend.device,
                training.acts().blocks[static_cast<std::size_t>(block)].moe.noise);
    }
  }
  forward(backend, file, "/out", training, Mode::training, golden.loss, report);
  file.compare(
      {.name = "/out", .required = required(golden.training, {"logits", "loss_main", "auxiliary_loss", "total_loss"})},
      training_outputs(training), tolerances, report);
  const double groups = golden.training.moe_blocks.empty()
                            ? 1.0
                            : static_cast<double>(golden.batch * golden.training.tokens()) /
                                  static_cast<double>(golden.training.group_tokens());
  training.backward(1.0 / groups, gradients);
  compare_gradients(backend, file, table, gradients, tolerances, report);

  GoldenPass evaluation(backend, golden.evaluation, golden.batch, table, parameters);
  read_batch(file, evaluation);
  forward(backend, file, "/eval", evaluation, Mode::evaluation, golden.loss, report);
  file.compare({.name = "/eval", .required = required(golden.evaluation, {"logits", "loss_main"})},
               evaluation_outputs(evaluation), tolerances, report);
}

}  // namespace vitrail
