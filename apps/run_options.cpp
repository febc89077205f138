#include "apps/run_options.hpp"

namespace vitrail {

void add_model_options(Options& options, RunConfig& config, RunOptionTexts& texts) {
  ModelConfig& m = config.model;
  RouterConfig& r = m.router;
  options.section("Model");
  const auto number = [&](const char* name, auto& target, const char* help) {
    options.add(name, target, "N", help).effect(Effect::numerics);
  };
  number("image-height", m.image_height, "pixels; must be those of the data");
  number("image-width", m.image_width, "pixels");
  number("channels", m.channels, "1 grey, 3 colour");
  number("patch-rows", m.patch_rows, "pixels of a patch");
  number("patch-columns", m.patch_columns, "pixels of a patch");
  number("width", m.width, "D: channels of a token");
  number("mlp-width", m.mlp_width, "F: hidden channels of an MLP and of an expert");
  number("heads", m.heads, "H: attention heads; divides the width");
  number("blocks", m.blocks, "L: transformer blocks");
  number("classes", m.classes, "V: must be those of the data");
  number("representation", m.representation, "width of the tanh layer before the head; 0: none");
  options.add("head-bias", m.head_bias, "X", "initial bias of the head").effect(Effect::numerics);
  options.add("moe", config.moe, "WHICH", "sparse blocks: none, every-N, or last-N (of the odd ones)")
      .effect(Effect::numerics);
  number("experts", m.experts, "E: experts per sparse block");
  options.add("experts-alike", m.experts_alike, "", "start all experts of a block with the same values")
      .effect(Effect::numerics);
  number("selected", r.selected, "K: experts per token");
  number("group-images", r.group_images, "images that are routed together");
  options.add("capacity-factor", r.capacity.factor, "X", "slots offered over choices made").effect(Effect::numerics);
  options.add("capacity-slots", texts.capacity_slots, "N", "slots per expert and group, instead of the factor")
      .effect(Effect::numerics);
  options.add("capacity-rounding", texts.capacity_rounding, "HOW", "of the factor's slots: ceil, nearest, floor")
      .choices({"ceil", "nearest", "floor"})
      .effect(Effect::numerics);
  number("capacity-multiple", r.capacity.multiple_of, "round slots up to a multiple of this");
  options.add("noise", r.noise_std, "X", "router noise: standard deviation X/E on the logits, in training")
      .effect(Effect::numerics);
  options
      .add("token-order", texts.token_order, "ORDER",
           "who takes slots first: vanilla, or prioritized (Batch Prioritized Routing)")
      .choices({"vanilla", "prioritized"})
      .effect(Effect::numerics);
  options.add("importance-weight", r.importance_weight, "X", "of the importance loss").effect(Effect::numerics);
  options.add("load-weight", r.load_weight, "X", "of the load loss").effect(Effect::numerics);
  options.add("gshard-weight", r.gshard_weight, "X", "of the GShard loss").effect(Effect::numerics);
}

void add_training_options(Options& options, RunConfig& config) {
  options.section("Optimisation");
  const auto real = [&](const char* name, double& target, const char* help) {
    options.add(name, target, "X", help).effect(Effect::numerics);
  };
  options.add("epochs", config.epochs, "X", "length of the run; or --steps").effect(Effect::numerics);
  options.add("steps", config.steps, "N", "length of the run in optimisation steps; or --epochs")
      .effect(Effect::numerics);
  options.add("loss", config.loss, "NAME", "softmax or sigmoid cross-entropy")
      .choices({"softmax", "sigmoid"})
      .effect(Effect::numerics);
  options.add("schedule", config.schedule, "NAME", "learning rate after warm-up: constant, linear, cosine, rsqrt")
      .choices({"constant", "linear", "cosine", "rsqrt"})
      .effect(Effect::numerics);
  real("learning-rate", config.learning_rate, "peak");
  real("final-learning-rate", config.final_learning_rate, "end of linear and cosine");
  real("warmup", config.warmup, "share of the steps (below 1) or steps, linear from 0");
  real("timescale", config.timescale, "of rsqrt, in steps");
  real("cooldown", config.cooldown, "of rsqrt: share of the steps or steps, linear to 0");
  real("beta1", config.beta1, "Adam");
  real("beta2", config.beta2, "Adam");
  real("epsilon", config.epsilon, "Adam");
  real("weight-decay", config.weight_decay, "decoupled, times the learning rate");
  options.add("weight-decay-pattern", config.weight_decay_pattern, "REGEX", "parameters that decay, by name")
      .effect(Effect::numerics);
  real("clip-norm", config.clip_norm, "clip gradients by global norm; 0: off");
  options.add("seed", config.seed, "N", "of initial values, router noise, shuffling and augmentation")
      .effect(Effect::numerics);
  options.section("Augmentation");
  options.add("shift", config.shift, "PIXELS", "random shift each way").effect(Effect::numerics);
  options.add("flip", config.flip, "", "random horizontal flip").effect(Effect::numerics);
}

void add_layout_options(Options& options, RunConfig& config) {
  options.section("Batch and ranks");
  options.add("batch", config.batch, "N", "images of one optimisation step, over all ranks").effect(Effect::numerics);
  options.add("leaf-images", config.leaf_images, "B", "images that are computed together: same bits on every layout")
      .effect(Effect::numerics);
  options.add("threads", config.threads, "N", "per rank").effect(Effect::numerics);
  options.add("backend", config.backend, "NAME", "cpu (fast, f32) or reference (plain, f64)")
      .choices({"cpu", "reference"})
      .effect(Effect::numerics);
  options.add("expert-parallel", config.expert_parallel, "EP", "ranks that share one copy of all experts")
      .effect(Effect::layout);
  options.add("leaves-per-pass", config.leaves_per_pass, "P", "per rank; fewer need less memory; 0: as many as fit")
      .effect(Effect::layout);
}

void apply_run_options(Options& options, RunConfig& config, RunOptionTexts& texts) {
  if (const auto file = options.given("config")) options.read_file(*file);
  if (const auto name = options.given("preset")) texts.preset = *name;
  config = preset(texts.preset);
  RouterConfig& router = config.model.router;
  texts.token_order = router.order == TokenOrder::prioritized ? "prioritized" : "vanilla";
  texts.capacity_rounding = router.capacity.rounding == Capacity::Rounding::ceil      ? "ceil"
                            : router.capacity.rounding == Capacity::Rounding::nearest ? "nearest"
                                                                                      : "floor";
  texts.capacity_slots = router.capacity.slots;
  options.apply();
  // Of two ways to say one thing, the command line's goes before the file's, and any before the preset's.
  const auto length = options.outranked("steps", "epochs");
  if (length == "steps") config.steps = 0;
  if (length == "epochs") config.epochs = 0;
  const auto capacity = options.outranked("capacity-slots", "capacity-factor");
  if (capacity == "capacity-slots") texts.capacity_slots.reset();
  if (capacity == "capacity-factor") router.capacity.factor.reset();
  router.order = texts.token_order == "prioritized" ? TokenOrder::prioritized : TokenOrder::vanilla;
  router.capacity.rounding = texts.capacity_rounding == "ceil"      ? Capacity::Rounding::ceil
                             : texts.capacity_rounding == "nearest" ? Capacity::Rounding::nearest
                                                                    : Capacity::Rounding::floor;
  router.capacity.slots = texts.capacity_slots;
  resolve(config);
}

Json run_settings(const Options& options) {
  Json settings = Json::object();
  for (const Setting& setting : options.settings()) {
    if (setting.effect == Effect::none) continue;
    Json values = Json::array();
    for (const std::string& value : setting.values) values.push_back(value);
    settings.set(setting.name, std::move(values));
  }
  return settings;
}

void expect_same_numerics(const Options& options, const Json& written, const std::string& checkpoint) {
  std::string differing;
  for (const Setting& setting : options.settings()) {
    if (setting.effect != Effect::numerics) continue;
    const Json* then = written.find(setting.name);
    std::vector<std::string> values;
    if (then != nullptr) {
      for (const Json& value : then->items()) values.push_back(value.as_string());
    }
    if (then != nullptr && values == setting.values) continue;
    const auto shown = [](const std::vector<std::string>& texts) { return texts.empty() ? "none" : texts.front(); };
    differing += text(differing.empty() ? "" : ", ", "--", setting.name, " ", shown(setting.values), " (was ",
                      shown(values), ")");
  }
  VITRAIL_EXPECT(differing.empty(), ExitCode::usage,
                 text("the run cannot be resumed from ", checkpoint, " with ", differing),
                 "these settings change results", "Resume with the old values, or start another --run-dir");
}

}  // namespace vitrail
