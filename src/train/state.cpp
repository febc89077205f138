#include "train/state.hpp"

#include <cstdio>

namespace vitrail {

Ranks::Ranks(Communicator& world_, const Layout& layout)
    : world(world_),
      expert(world_.split(static_cast<int>(layout.replica()))),
      replica(world_.split(static_cast<int>(layout.expert_rank()))) {}

ParameterShare::ParameterShare(Arena& parameter_arena, Arena& gradient_arena, Arena& optimizer_arena, Device& device,
                               Dtype real, const OptimizerConfig& config, const std::vector<ParameterSpec>& table,
                               const FlatLayout& layout_, Communicator& owners, std::int64_t units_per_tree,
                               std::int64_t units, const std::vector<bool>& early)
    : layout(layout_),
      values(parameter_arena.allocate(real, {layout_.elements()})),
      gradients(gradient_arena.allocate(real, {layout_.elements()})),
      optimizer(optimizer_arena, device, real, config, table, layout_, owners.rank(), early),
      sync(gradient_arena, device, real, layout_, owners, units_per_tree, units) {}

namespace {

std::optional<FlatLayout> expert_layout_of(const RunConfig& config, const Layout& layout,
                                           const std::vector<ParameterSpec>& table,
                                           const std::vector<std::int64_t>& pieces) {
  if (config.model.moe_blocks.empty()) return std::nullopt;
  return FlatLayout(table, layout.first_expert(config.model), layout.experts_here(config.model), layout.replicas(),
                    pieces);
}

// What does not fit is seldom what is too large, so the Error of an arena gets the whole plan of this rank.
[[noreturn]] void fail_with_plan(const Error& refused, std::span<const Arena> measured) {
  std::string plan;
  std::int64_t sum = 0;
  const auto add_line = [&](const std::string& name, std::int64_t bytes) {
    char line[80];
    std::snprintf(line, sizeof line, "\n  %-12s %12.1f MiB", name.c_str(), static_cast<double>(bytes) / (1 << 20));
    plan += line;
  };
  for (const Arena& arena : measured) {
    add_line(arena.name(), arena.bytes());
    sum += arena.bytes();
  }
  add_line("together", sum);
  Fault fault = refused.fault();
  fault.suggestion +=
      text(fault.suggestion.empty() ? "" : ". ", "A rank of this run needs, besides the workspace of its verbs:", plan);
  fail(refused.code(), std::move(fault), refused.where());
}

}  // namespace

TrainState::TrainState(const RunConfig& config_, Device& device_, Ops& ops_, Communicator& world,
                       std::int64_t labels_per_image_)
    : config(config_),
      layout(make_layout(config_, world.rank(), world.size())),
      labels_per_image(labels_per_image_),
      device(device_),
      ops(ops_),
      ranks(world, layout),
      table(parameter_table(config.model)),
      pieces(optimizer_pieces(make_optimizer(config), table, layout.expert_parallel == 1)),
      dense_layout(table, 0, 0, world.size(), pieces),
      expert_layout(expert_layout_of(config, layout, table, pieces)) {
  expect_some_are_frozen(make_optimizer(config), table);
  Arena measured[] = {Arena("parameters"), Arena("gradients"), Arena("optimizer"), Arena("activations")};
  lay_out(measured[0], measured[1], measured[2], measured[3]);
  try {
    parameter_arena_ = std::make_unique<Arena>(measured[0].name(), device, measured[0].bytes());
    gradient_arena_ = std::make_unique<Arena>(measured[1].name(), device, measured[1].bytes());
    optimizer_arena_ = std::make_unique<Arena>(measured[2].name(), device, measured[2].bytes());
    activation_arena_ = std::make_unique<Arena>(measured[3].name(), device, measured[3].bytes());
  } catch (const Error& refused) {
    fail_with_plan(refused, measured);
  }
  lay_out(*parameter_arena_, *gradient_arena_, *optimizer_arena_, *activation_arena_);
  initialize_parameters();
}

void TrainState::lay_out(Arena& parameter_arena, Arena& gradient_arena, Arena& optimizer_arena,
                         Arena& activation_arena) {
  const Dtype real = ops.real();
  const OptimizerConfig optimizer = make_optimizer(config);
  const std::int64_t p = layout.leaves_per_pass;
  const std::int64_t ep = layout.expert_parallel;
  const std::vector<bool> early = updated_early();
  dense.emplace(parameter_arena, gradient_arena, optimizer_arena, device, real, optimizer, table, dense_layout,
                ranks.world, layout.tree_leaves() / p, layout.leaves() / p, early);
  std::vector<Tensor> gradient_tensors;
  dense_layout.cut(table, dense->values, parameters);
  dense_layout.cut(table, dense->gradients, gradient_tensors);
  if (expert_layout) {
    expert.emplace(parameter_arena, gradient_arena, optimizer_arena, device, real, optimizer, table, *expert_layout,
                   *ranks.replica, layout.tree_leaves() / (p * ep), layout.leaves() / (p * ep), early);
    expert_layout->cut(table, expert->values, parameters);
    expert_layout->cut(table, expert->gradients, gradient_tensors);
  }
  std::vector<ProductWeights::Share> shares{{dense_layout, dense->values}};
  if (expert) shares.push_back({*expert_layout, expert->values});
  weights.emplace(parameter_arena, ops, table, shares);
  params = bind_params(config.model, table, weights->tensors());
  gradients = bind_params(config.model, table, gradient_tensors);
  bind_early_updates(early);
  acts = lay_out_activations(activation_arena, device, ops, config.model,
                             {.leaves = p,
                              .leaf_images = layout.leaf_images,
                              .expert_parallel = ep,
                              .labels = labels_per_image,
                              .mixup_images = make_mixup(config).images,
                              .recompute = make_recompute(config)},
                             spare_memory(gradients));
}

// A gradient that is one sum by one rank alone is complete where it is made.
std::vector<bool> TrainState::updated_early() const {
  std::vector<bool> early(table.size(), false);
  if (!config.early_update) return early;
  const std::int64_t d = config.model.width, f = config.model.mlp_width;
  const bool able = ops.updates_early(d, f) && ops.updates_early(f, d) && layout.passes() == 1;
  bool any = false;
  for (std::size_t i = 0; i < table.size(); ++i) {
    early[i] = able && table[i].mlp && (table[i].expert ? layout.replicas() : layout.ranks) == 1;
    any = any || early[i];
  }
  VITRAIL_EXPECT(any, ExitCode::usage, "no weight can be updated early (--early-update)",
                 "that is for MLPs of more than 65,536 elements on the cpu back end, whose gradients are made in one "
                 "pass on one rank",
                 "Use one pass (a larger --leaves-per-pass) and one rank, or as many ranks as --expert-parallel; or no "
                 "--early-update");
  return early;
}

void TrainState::bind_early_updates(const std::vector<bool>& early) {
  early_updates.clear();
  early_updates.reserve(table.size());  // the layers point into it
  untouched_gradient_bytes_ = 0;
  std::vector<const EarlyUpdate*> updates(table.size(), nullptr);
  for (std::size_t i = 0; i < table.size(); ++i) {
    if (!early[i]) continue;
    Tensor parameter = parameters[i];
    if (!table[i].expert) parameter = parameter.view({1, parameter.shape[0], parameter.shape[1]});
    early_updates.push_back((table[i].expert ? expert : dense)->optimizer.early_update(i, parameter));
    updates[i] = &early_updates.back();
    untouched_gradient_bytes_ += parameter.bytes();
  }
  bind_updates(config.model, table, updates, gradients);
}

void TrainState::initialize_parameters() {
  const std::int64_t first_expert = layout.first_expert(config.model);
  for (std::size_t i = 0; i < table.size(); ++i) {
    initialize(ops, table[i], static_cast<std::uint64_t>(config.seed), static_cast<std::uint32_t>(i),
               config.model.experts_alike, first_expert, parameters[i]);
  }
  start_averages();
}

void TrainState::start_averages() {
  dense->optimizer.start_average(device, dense->mine());
  if (expert) expert->optimizer.start_average(device, expert->mine());
}

}  // namespace vitrail
