#include "apps/run_options.hpp"

#include "train/presets.hpp"

namespace vitrail {

namespace {

template <class Enum>
struct Name {
  Enum value;
  const char* name;
};
constexpr Name<Classifier> kClassifiers[] = {
    {Classifier::token, "token"}, {Classifier::first, "first"}, {Classifier::gap, "gap"}, {Classifier::map, "map"}};
constexpr Name<PositionEmbedding> kPositions[] = {{PositionEmbedding::learned, "learned"},
                                                  {PositionEmbedding::sincos2d, "sincos2d"},
                                                  {PositionEmbedding::none, "none"}};
constexpr Name<RouterKind> kRouters[] = {
    {RouterKind::top_k, "top-k"}, {RouterKind::experts_choice, "experts-choice"}, {RouterKind::soft, "soft"}};
constexpr Name<TokenOrder> kTokenOrders[] = {{TokenOrder::vanilla, "vanilla"},
                                             {TokenOrder::prioritized, "prioritized"},
                                             {TokenOrder::prioritized_sum, "prioritized-sum"},
                                             {TokenOrder::reversed, "reversed"},
                                             {TokenOrder::random, "random"}};
constexpr Name<Capacity::Rounding> kRoundings[] = {
    {Capacity::Rounding::ceil, "ceil"}, {Capacity::Rounding::nearest, "nearest"}, {Capacity::Rounding::floor, "floor"}};
constexpr Name<bool> kExchangeDtypes[] = {{false, "f32"}, {true, "bf16"}};

template <class Enum, std::size_t n>
std::vector<std::string> names_of(const Name<Enum> (&names)[n]) {
  std::vector<std::string> all;
  for (const Name<Enum>& entry : names) all.emplace_back(entry.name);
  return all;
}
template <class Enum, std::size_t n>
std::string name_in(const Name<Enum> (&names)[n], Enum value) {
  for (const Name<Enum>& entry : names) {
    if (entry.value == value) return entry.name;
  }
  return {};
}
/// Options let only names of the table through.
template <class Enum, std::size_t n>
Enum value_in(const Name<Enum> (&names)[n], const std::string& name) {
  for (const Name<Enum>& entry : names) {
    if (entry.name == name) return entry.value;
  }
  return names[0].value;
}

}  // namespace

std::vector<std::string> token_order_names() { return names_of(kTokenOrders); }
TokenOrder token_order_of(const std::string& name) { return value_in(kTokenOrders, name); }
std::string name_of(TokenOrder order) { return name_in(kTokenOrders, order); }
std::string name_of(RouterKind kind) { return name_in(kRouters, kind); }
Classifier classifier_of(const std::string& name) { return value_in(kClassifiers, name); }
PositionEmbedding position_embedding_of(const std::string& name) { return value_in(kPositions, name); }

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
  const auto real = [&](const char* name, double& target, const char* help) {
    options.add(name, target, "X", help).effect(Effect::numerics);
  };
  const auto choice = [&](const char* name, std::string& target, std::vector<std::string> names, const char* help) {
    options.add(name, target, "NAME", help).choices(std::move(names)).effect(Effect::numerics);
  };
  choice("classifier", texts.classifier, names_of(kClassifiers),
         "what the head reads: a class token, the first token, the mean (gap), or attention pooling (map)");
  choice("positions", texts.positions, names_of(kPositions), "position embedding: learned, sincos2d, none");
  real("position-temperature", m.position_temperature, "of sincos2d");
  options.add("qk-norm", m.qk_norm, "", "normalise queries and keys").effect(Effect::numerics);
  real("head-bias", m.head_bias, "initial bias of the head");
  options.add("head-zero", m.head_zero, "", "start the head's kernel at 0").effect(Effect::numerics);
  real("dropout", m.dropout, "after the position embedding, attention and in dense MLPs");
  real("attention-dropout", m.attention_dropout, "of attention probabilities");
  real("expert-dropout", m.expert_dropout, "in experts");
  real("stochastic-depth", m.stochastic_depth, "rate of left-out branches at the last block");
  options
      .add("moe", config.moe, "WHICH",
           "sparse blocks: none, every-N, last-N (of the odd ones), or by number from 0: 6-11")
      .effect(Effect::numerics);
  number("experts", m.experts, "E: experts per sparse block");
  options.add("experts-alike", m.experts_alike, "", "start all experts of a block with the same values")
      .effect(Effect::numerics);
  choice("router", texts.router, names_of(kRouters),
         "top-k: tokens choose experts; experts-choice: experts choose tokens; soft: Soft MoE");
  number("selected", r.selected, "K: experts per token (top-k)");
  number("group-images", r.group_images, "images that are routed together");
  options.add("capacity-factor", r.capacity.factor, "X", "slots offered over choices made").effect(Effect::numerics);
  options.add("capacity-slots", texts.capacity_slots, "N", "slots per expert and group, instead of the factor")
      .effect(Effect::numerics);
  options.add("capacity-rounding", texts.capacity_rounding, "HOW", "of the factor's slots: ceil, nearest, floor")
      .choices(names_of(kRoundings))
      .effect(Effect::numerics);
  number("capacity-multiple", r.capacity.multiple_of, "round slots up to a multiple of this");
  options.add("noise", r.noise_std, "X", "router noise: standard deviation X/E on the logits, in training")
      .effect(Effect::numerics);
  options
      .add("token-order", texts.token_order, "ORDER",
           "who takes slots first: vanilla; prioritized (Batch Prioritized Routing), prioritized-sum; reversed, random")
      .choices(names_of(kTokenOrders))
      .effect(Effect::numerics);
  options.add("importance-weight", r.importance_weight, "X", "of the importance loss").effect(Effect::numerics);
  options.add("load-weight", r.load_weight, "X", "of the load loss").effect(Effect::numerics);
  options.add("gshard-weight", r.gshard_weight, "X", "of the GShard loss").effect(Effect::numerics);
  options.add("z-weight", r.z_weight, "X", "of the router z-loss").effect(Effect::numerics);
  options.add("normalize-gates", r.normalize_gates, "", "divide the kept gates of a token by their sum")
      .effect(Effect::numerics);
  choice("exchange-dtype", texts.exchange_dtype, names_of(kExchangeDtypes), "of rows to and from the experts");
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
  real("label-smoothing", config.label_smoothing, "a: targets (1 - a) y + a / V");
  options.add("schedule", config.schedule, "NAME", "learning rate after warm-up")
      .choices(schedule_names())
      .effect(Effect::numerics);
  real("learning-rate", config.learning_rate, "peak");
  real("final-learning-rate", config.final_learning_rate,
       "end of linear, cosine and polynomial; limit of exponential, 0: none");
  real("warmup", config.warmup, "share of the steps (below 1) or steps, linear from 0");
  real("timescale", config.timescale, "of rsqrt, in steps");
  real("cooldown", config.cooldown, "of rsqrt: share of the steps or steps, linear to 0");
  real("power", config.power, "of polynomial");
  real("decay-rate", config.decay_rate, "of exponential: factor per transition");
  real("transition-steps", config.transition_steps, "of exponential: share of the steps or steps");
  options.add("staircase", config.staircase, "", "exponential in steps").effect(Effect::numerics);
  options.add("optimizer", config.optimizer, "NAME", "adamw, sgd or adafactor")
      .choices({"adamw", "sgd", "adafactor"})
      .effect(Effect::numerics);
  real("beta1", config.beta1, "Adam");
  real("beta2", config.beta2, "Adam");
  real("epsilon", config.epsilon, "Adam");
  real("momentum", config.momentum, "SGD, Adafactor; 0: none");
  options.add("bf16-momentum", config.bf16_momentum, "", "keep the first moment or momentum in bfloat16")
      .effect(Effect::numerics);
  options
      .add("factored-above", config.factored_above, "N",
           "Adafactor: second moments of axes from this length on are factored")
      .effect(Effect::numerics);
  real("weight-decay", config.weight_decay, "decoupled, times the learning rate");
  options.add("weight-decay-pattern", config.weight_decay_pattern, "REGEX", "parameters that decay, by name")
      .effect(Effect::numerics);
  real("clip-norm", config.clip_norm, "clip gradients by global norm; 0: off");
  options.add("frozen", config.frozen, "REGEX", "parameters that keep their values, by name").effect(Effect::numerics);
  real("average-decay", config.average_decay, "running average of the weights, beside them; 0: none");
  options.add("seed", config.seed, "N", "of initial values, router noise, shuffling and augmentation")
      .effect(Effect::numerics);
  options.section("Augmentation");
  options.add("shift", config.shift, "PIXELS", "random shift each way").effect(Effect::numerics);
  options.add("flip", config.flip, "", "random horizontal flip").effect(Effect::numerics);
  real("mixup", config.mixup, "concentration of the Dirichlet distribution; 0: off");
  options.add("mixup-draw", config.mixup_draw, "WHAT", "one draw for every step, leaf or image")
      .choices({"step", "leaf", "image"})
      .effect(Effect::numerics);
  options.add("mixup-images", config.mixup_images, "N", "images that are mixed, with those that follow in the leaf")
      .effect(Effect::numerics);
}

void add_layout_options(Options& options, RunConfig& config) {
  options.section("Batch and ranks");
  options.add("batch", config.batch, "N", "images of one optimisation step, over all ranks").effect(Effect::numerics);
  options.add("leaf-images", config.leaf_images, "B", "images that are computed together: same bits on every layout")
      .effect(Effect::numerics);
  options.add("threads", config.threads, "N", "per rank").effect(Effect::numerics);
  options.add("backend", config.backend, "NAME", "cpu, cuda (an NVIDIA GPU per rank), or reference (plain, f64)")
      .choices({"cpu", "cuda", "reference"})
      .effect(Effect::backend);
  options
      .add("precision", config.precision, "NAME", "of matrix products: f32, or bf16 inputs with f32 sums (cpu, cuda)")
      .choices({"f32", "bf16"})
      .effect(Effect::numerics);
  options.add("expert-parallel", config.expert_parallel, "EP", "ranks that share one copy of all experts")
      .effect(Effect::layout);
  options.add("leaves-per-pass", config.leaves_per_pass, "P", "per rank; fewer need less memory; 0: as many as fit")
      .effect(Effect::layout);
  // By cuda in bf16 the last bits of `mlp` may be others: cuBLASLt chooses another algorithm without the GELU behind
  // it.
  options
      .add("recompute", config.recompute, "WHAT",
           "less memory for more work in training: compute hidden layers (mlp) or whole blocks again (block)")
      .choices(recompute_names())
      .effect(Effect::layout);
  options
      .add("early-update", config.early_update, "",
           "update weights of MLPs where their gradients are made, which need no memory then (cpu, adamw, "
           "--clip-norm 0; what one rank computes in one pass). No gradient norm is reported, and where NaN or Inf "
           "comes up in the backward pass only, weights have changed")
      .effect(Effect::layout);
}

void apply_run_options(Options& options, RunConfig& config, RunOptionTexts& texts) {
  if (const auto file = options.given("config")) options.read_file(*file);
  if (const auto name = options.given("preset")) texts.preset = *name;
  config = preset(texts.preset);
  apply_on_top_of(config, options, texts);
}

void apply_on_top_of(RunConfig& config, Options& options, RunOptionTexts& texts) {
  RouterConfig& router = config.model.router;
  texts.classifier = name_in(kClassifiers, config.model.classifier);
  texts.positions = name_in(kPositions, config.model.positions);
  texts.router = name_in(kRouters, router.kind);
  texts.token_order = name_in(kTokenOrders, router.order);
  texts.exchange_dtype = name_in(kExchangeDtypes, router.exchange_bf16);
  texts.capacity_rounding = name_in(kRoundings, router.capacity.rounding);
  texts.capacity_slots = router.capacity.slots;
  options.apply();
  // Of two ways to say one thing, the command line's goes before the file's, and any before the preset's.
  const auto length = options.outranked("steps", "epochs");
  if (length == "steps") config.steps = 0;
  if (length == "epochs") config.epochs = 0;
  const auto capacity = options.outranked("capacity-slots", "capacity-factor");
  if (capacity == "capacity-slots") texts.capacity_slots.reset();
  if (capacity == "capacity-factor") router.capacity.factor.reset();
  config.model.classifier = value_in(kClassifiers, texts.classifier);
  config.model.positions = value_in(kPositions, texts.positions);
  router.kind = value_in(kRouters, texts.router);
  router.order = value_in(kTokenOrders, texts.token_order);
  router.exchange_bf16 = value_in(kExchangeDtypes, texts.exchange_dtype);
  router.capacity.rounding = value_in(kRoundings, texts.capacity_rounding);
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

std::vector<Setting> settings_of(const Json& run_settings) {
  std::vector<Setting> settings;
  for (const JsonMember& member : run_settings.members()) {
    Setting setting{member.key, {}, Effect::none};
    for (const Json& value : member.value.items()) setting.values.push_back(value.as_string());
    settings.push_back(std::move(setting));
  }
  return settings;
}

namespace {

/// "--batch 32 (was 16), --seed 1 (was 0)": the settings of this effect that are not the checkpoint's.
std::string other_settings(const Options& options, const Json& written, Effect effect) {
  std::string differing;
  for (const Setting& setting : options.settings()) {
    if (setting.effect != effect) continue;
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
  return differing;
}

}  // namespace

void expect_same_numerics(const Options& options, const Json& written, const std::string& checkpoint) {
  const std::string differing = other_settings(options, written, Effect::numerics);
  VITRAIL_EXPECT(differing.empty(), ExitCode::usage,
                 text("the run cannot be resumed from ", checkpoint, " with ", differing),
                 "these settings change results", "Resume with the old values, or start another --run-dir");
}

std::string other_backend(const Options& options, const Json& written) {
  return other_settings(options, written, Effect::backend);
}

}  // namespace vitrail
