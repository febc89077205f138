#include "apps/golden_config.hpp"

#include <algorithm>

namespace vitrail {

ConfigKeys::ConfigKeys(const Json& object, std::string path) : object_(object), path_(std::move(path)) {
  if (!object.is_object()) throw Unsupported(path_ + " is not an object");
}

const Json* ConfigKeys::find(const std::string& key) {
  known_.push_back(key);
  const Json* const value = object_.find(key);
  return value == nullptr || value->is_null() ? nullptr : value;
}

const Json& ConfigKeys::at(const std::string& key) {
  const Json* const value = find(key);
  if (value == nullptr) throw Unsupported(path_to(key) + " is not set");
  return *value;
}

double ConfigKeys::real(const std::string& key, double otherwise) {
  const Json* const value = find(key);
  return value == nullptr ? otherwise : value->as_real();
}

std::int64_t ConfigKeys::integer(const std::string& key, std::int64_t otherwise) {
  const Json* const value = find(key);
  return value == nullptr ? otherwise : value->as_integer();
}

bool ConfigKeys::boolean(const std::string& key, bool otherwise) {
  const Json* const value = find(key);
  return value == nullptr ? otherwise : value->as_bool();
}

std::string ConfigKeys::string(const std::string& key, const std::string& otherwise) {
  const Json* const value = find(key);
  return value == nullptr ? otherwise : value->as_string();
}

void ConfigKeys::expect(bool condition, const std::string& key, const std::string& value) const {
  if (!condition) throw Unsupported(path_to(key) + " = " + value);
}

void ConfigKeys::done() const {
  for (const JsonMember& member : object_.members()) {
    if (std::find(known_.begin(), known_.end(), member.key) == known_.end()) {
      throw Unsupported(path_to(member.key) + " = " + member.value.dump());
    }
  }
}

namespace {

/// `overrides` on top of `base`, recursively; lists and numbers are replaced.
Json merged(const Json& base, const Json& overrides) {
  if (!base.is_object() || !overrides.is_object()) return overrides;
  Json result = base;
  for (const JsonMember& member : overrides.members()) {
    const Json* const old = base.find(member.key);
    result.set(member.key, old == nullptr ? member.value : merged(*old, member.value));
  }
  return result;
}

std::vector<std::int64_t> integers(const Json& list, std::size_t count, const std::string& path) {
  std::vector<std::int64_t> values;
  for (const Json& item : list.items()) values.push_back(item.as_integer());
  if (count > 0 && values.size() != count) throw Unsupported(path + " = " + list.dump());
  return values;
}

void parse_dispatcher(const Json& json, const std::string& path, RouterConfig& router) {
  ConfigKeys keys(json, path);
  const std::string name = keys.string("name", "einsum");
  keys.expect(name == "einsum" || name == "indices", "name", name);  // one function, two ways to compute it
  router.exchange_bf16 = keys.boolean("bfloat16", false);
  const bool prioritized = keys.boolean("batch_priority", false);
  keys.expect(!prioritized || router.kind == RouterKind::top_k, "batch_priority", "true");
  router.order = prioritized ? TokenOrder::prioritized : TokenOrder::vanilla;
  router.capacity = golden_capacity(keys);
  keys.done();
}

/// The original leaves terms out whose weight is not above 0.
double weight(ConfigKeys& keys, const std::string& key, double otherwise) {
  return std::max(0.0, keys.real(key, otherwise));
}

void parse_router(const Json& json, const std::string& path, Mode mode, RouterConfig& router) {
  ConfigKeys keys(json, path);
  const std::string name = keys.string("name", "NoisyTopExpertsPerItemRouter");
  const bool top_k = name == "NoisyTopExpertsPerItemRouter";
  keys.expect(top_k || name == "NoisyTopItemsPerExpertRouter", "name", name);
  router.kind = top_k ? RouterKind::top_k : RouterKind::experts_choice;
  if (top_k) router.selected = keys.integer("num_selected_experts", 1);
  router.noise_std = keys.real("noise_std", 1.0);
  if (top_k) {
    router.importance_weight = weight(keys, "importance_loss_weight", 1.0);
    router.load_weight = weight(keys, "load_loss_weight", 1.0);
    router.gshard_weight = weight(keys, "gshard_loss_weight", 0.0);
  }
  if (keys.has("deterministic")) {
    const bool deterministic = keys.at("deterministic").as_bool();
    if (deterministic) router.noise_std = 0;
    // The files have no noise of an evaluation pass.
    keys.expect(deterministic || mode == Mode::training, "deterministic", "false in the evaluation pass");
  }
  parse_dispatcher(keys.at("dispatcher"), path + "/dispatcher", router);
  keys.done();
}

void parse_moe(const Json& json, const std::string& path, Mode mode, ModelConfig& config) {
  ConfigKeys keys(json, path);
  config.moe_blocks = integers(keys.at("layers"), 0, keys.path_to("layers"));
  std::sort(config.moe_blocks.begin(), config.moe_blocks.end());
  config.experts = keys.at("num_experts").as_integer();
  config.router.group_tokens = keys.at("group_size").as_integer();
  keys.expect(keys.real("dropout_rate", 0) == 0, "dropout_rate", "above 0");
  keys.ignore("split_rngs");  // of initialisation and dropout
  parse_router(keys.at("router"), path + "/router", mode, config.router);
  keys.done();
}

void parse_encoder(const Json& json, const std::string& path, Mode mode, ModelConfig& config) {
  ConfigKeys keys(json, path);
  config.blocks = keys.at("num_layers").as_integer();
  config.mlp_width = keys.at("mlp_dim").as_integer();
  config.heads = keys.at("num_heads").as_integer();
  for (const char* key : {"dropout_rate", "attention_dropout_rate"})
    keys.expect(keys.real(key, 0) == 0, key, "above 0");
  config.qk_norm = keys.boolean("attention_qk_norm", false);
  if (const Json* const positions = keys.find("position_emb")) {
    ConfigKeys inner(*positions, keys.path_to("position_emb"));
    const std::string name = inner.string("name", "learned");
    inner.expect(name == "learned" || name == "sincos2d" || name == "none", "name", name);
    config.positions = name == "learned"    ? PositionEmbedding::learned
                       : name == "sincos2d" ? PositionEmbedding::sincos2d
                                            : PositionEmbedding::none;
    config.position_temperature = inner.real("temperature", 10000);
    inner.done();
  }
  if (const Json* const moe = keys.find("moe")) parse_moe(*moe, keys.path_to("moe"), mode, config);
  keys.done();
}

ModelConfig parse_model(const Json& json, const std::string& path, Mode mode, const std::vector<std::int64_t>& image) {
  ConfigKeys keys(json, path);
  ModelConfig config;
  const std::string name = keys.string("name", "VisionTransformerMoe");
  keys.expect(name == "VisionTransformerMoe", "name", name);
  config.image_height = image[0];
  config.image_width = image[1];
  config.channels = image[2];
  config.classes = keys.at("num_classes").as_integer();
  keys.expect(config.classes > 0, "num_classes", "0");
  const std::vector<std::int64_t> patch = integers(keys.at("patch_size"), 2, keys.path_to("patch_size"));
  config.patch_rows = patch[0];
  config.patch_columns = patch[1];
  config.width = keys.at("hidden_size").as_integer();
  const std::string classifier = keys.at("classifier").as_string();
  const std::vector<std::pair<std::string, Classifier>> classifiers = {
      {"token", Classifier::token}, {"0", Classifier::first}, {"gap", Classifier::gap}, {"map", Classifier::map}};
  const auto found = std::find_if(classifiers.begin(), classifiers.end(),
                                  [&](const auto& entry) { return entry.first == classifier; });
  keys.expect(found != classifiers.end(), "classifier", classifier);
  config.classifier = found->second;
  config.representation = keys.integer("representation_size", 0);
  keys.ignore("head_bias_init");  // parameters are given
  keys.ignore("head_kernel_zero_init");
  parse_encoder(keys.at("encoder"), path + "/encoder", mode, config);
  keys.done();
  config.check();
  return config;
}

}  // namespace

Capacity golden_capacity(ConfigKeys& keys) {
  Capacity capacity;
  capacity.factor.reset();
  if (const Json* const factor = keys.find("capacity_factor")) capacity.factor = factor->as_real();
  if (const Json* const slots = keys.find("capacity")) capacity.slots = slots->as_integer();
  const std::string rounding = keys.string("capacity_ceil_or_round", "ceil");
  keys.expect(rounding == "ceil" || rounding == "round", "capacity_ceil_or_round", rounding);
  capacity.rounding = rounding == "ceil" ? Capacity::Rounding::ceil : Capacity::Rounding::nearest;
  capacity.multiple_of = keys.integer("capacity_multiple_of", keys.has("capacity_multiple_of") ? 0 : 4);
  return capacity;
}

GoldenModel golden_model(ConfigKeys& config) {
  GoldenModel golden;
  const std::vector<std::int64_t> image = integers(config.at("image_shape"), 3, "image_shape");
  const Json& model = config.at("model");
  const Json* const overrides = config.find("eval_overrides");
  golden.training = parse_model(model, "model", Mode::training, image);
  golden.evaluation =
      parse_model(overrides == nullptr ? model : merged(model, *overrides), "model", Mode::evaluation, image);
  ConfigKeys loss(config.at("loss"), "loss");
  const std::string name = loss.at("name").as_string();
  loss.expect(name == "softmax_xent" || name == "sigmoid_xent", "name", name);
  loss.done();
  golden.loss = name == "softmax_xent" ? Loss::softmax : Loss::sigmoid;
  golden.batch = config.at("batch_size").as_integer();
  golden.tokens = config.integer("num_tokens", golden.training.tokens());
  config.ignore("labels");  // how they were drawn; the labels themselves are given
  return golden;
}

Schedule golden_schedule(const Json& json, const std::string& path, std::int64_t total_steps) {
  Schedule schedule;
  if (json.is_number()) {
    schedule.peak = json.as_real();
    return schedule;
  }
  ConfigKeys keys(json, path);
  const std::string name = keys.at("schedule").as_string();
  if (name == "constant") {
    schedule.peak = keys.at("value").as_real();
    keys.done();
    return schedule;
  }
  schedule.peak = keys.at("peak_value").as_real();
  schedule.total_steps = total_steps;
  if (name == "big_vision_rsqrt") {
    schedule.kind = ScheduleKind::rsqrt;
    schedule.timescale = keys.at("timescale").as_real();
    schedule.warmup_steps = keys.integer("warmup_steps", 0);
    schedule.cooldown_steps = keys.integer("cooldown_steps", 0);
    schedule.total_steps = keys.integer("decay_steps", total_steps);
  } else if (name == "warmup_exponential_decay") {
    schedule.kind = ScheduleKind::exponential;
    schedule.warmup_steps = keys.at("warmup_steps").as_integer();
    schedule.transition_steps = keys.at("transition_steps").as_integer();
    schedule.decay_rate = keys.at("decay_rate").as_real();
    schedule.staircase = keys.boolean("staircase", false);
    if (const Json* const end = keys.find("end_value")) schedule.end_value = end->as_real();
  } else {
    const bool linear = name == "warmup_linear_decay";
    const bool cosine = name == "warmup_cosine_decay";
    keys.expect(linear || cosine || name == "warmup_polynomial_decay", "schedule", name);
    schedule.kind = linear ? ScheduleKind::linear : (cosine ? ScheduleKind::cosine : ScheduleKind::polynomial);
    schedule.end = keys.real("end_value", 0);
    schedule.warmup_steps = keys.at("warmup_steps").as_integer();
    schedule.total_steps = keys.integer("decay_steps", total_steps);
    if (schedule.kind == ScheduleKind::polynomial) schedule.power = keys.at("power").as_real();
  }
  keys.done();
  return schedule;
}

namespace {

std::vector<PatternValue> pattern_values(const Json& list, const std::string& path) {
  std::vector<PatternValue> values;
  for (const Json& entry : list.items()) {
    if (entry.items().size() != 2) throw Unsupported(path + " = " + list.dump());
    values.push_back({entry.items()[0].as_string(), entry.items()[1].as_real()});
  }
  return values;
}

/// One regular expression, or a list of which any may be found.
std::string any_pattern(const Json& json) {
  if (json.is_string()) return json.as_string();
  std::string any;
  for (const Json& item : json.items()) any += (any.empty() ? "(?:" : "|(?:") + item.as_string() + ")";
  return any;
}

/// Is state of this dtype kept in bfloat16?
bool is_bf16(ConfigKeys& keys, const std::string& key) {
  const std::string dtype = keys.string(key, "float32");
  keys.expect(dtype == "float32" || dtype == "bfloat16", key, dtype);
  return dtype == "bfloat16";
}

/// The optimizer itself, without what stands before and after it.
void parse_rule(ConfigKeys& keys, OptimizerConfig& optimizer) {
  const std::string name = keys.at("name").as_string();
  keys.expect(name == "adam" || name == "sgd" || name == "big_vision_adafactor", "name", name);
  if (name == "adam") {
    optimizer.beta1 = keys.real("b1", 0.9);
    optimizer.beta2 = keys.real("b2", 0.999);
    optimizer.epsilon = keys.real("eps", 1e-8);
    optimizer.bf16_momentum = is_bf16(keys, "mu_dtype");
  } else if (name == "sgd") {
    optimizer.kind = OptimizerKind::sgd;
    optimizer.momentum = keys.real("momentum", 0);
    optimizer.bf16_momentum = is_bf16(keys, "accumulator_dtype");
    keys.expect(!keys.boolean("nesterov", false), "nesterov", "true");
  } else {
    optimizer.kind = OptimizerKind::adafactor;
    optimizer.momentum = keys.real("momentum", keys.has("momentum") ? 0 : 0.9);  // null: none
    optimizer.bf16_momentum = is_bf16(keys, "momentum_dtype");
    optimizer.factored_above = keys.integer("min_dim_size_to_factor", 32);
    optimizer.decay_exponent = keys.real("decay_rate", 0.8);
    optimizer.decay_rate_max = keys.real("decay_rate_max", 0.999);
    optimizer.square_epsilon = keys.real("eps", 1e-30);
  }
}

}  // namespace

GoldenOptimizer golden_optimizer(const Json& json, const std::string& path, std::int64_t total_steps) {
  ConfigKeys keys(json, path);
  GoldenOptimizer golden;
  OptimizerConfig& optimizer = golden.optimizer;
  parse_rule(keys, optimizer);
  if (const Json* const decay = keys.find("weight_decay")) {
    optimizer.decay = decay->is_number() ? std::vector<PatternValue>{{"", decay->as_real()}}
                                         : pattern_values(*decay, keys.path_to("weight_decay"));
  }
  if (const Json* const scale = keys.find("gradient_scale")) {
    optimizer.gradient_scale = pattern_values(*scale, keys.path_to("gradient_scale"));
  }
  if (const Json* const clip = keys.find("gradient_clip")) {
    ConfigKeys inner(*clip, keys.path_to("gradient_clip"));
    optimizer.clip_norm = inner.real("global_norm", 0);
    optimizer.clip_absolute = inner.real("absolute_value", 0);
    inner.done();
  }
  if (const Json* const frozen = keys.find("frozen_pattern")) optimizer.frozen = any_pattern(*frozen);
  if (const Json* const trainable = keys.find("trainable_pattern")) optimizer.trainable = any_pattern(*trainable);
  golden.schedule = golden_schedule(keys.at("learning_rate"), keys.path_to("learning_rate"), total_steps);
  keys.done();
  return golden;
}

}  // namespace vitrail
