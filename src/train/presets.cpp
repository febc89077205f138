#include "train/presets.hpp"

#include <algorithm>
#include <cmath>
#include <functional>
#include <utility>

namespace vitrail {

namespace {

constexpr std::int64_t kFashionMnist = 60'000;
constexpr std::int64_t kIlsvrc2012 = 1'268'355;    // train[:99%]
constexpr std::int64_t kImageNet21k = 14'094'722;  // 14,197,122 without the first 102,400
constexpr std::int64_t kCifar10 = 49'000;          // train[:98%]
constexpr std::int64_t kJft300M = 305'000'000;     // about
constexpr std::int64_t kJft3B = 3'000'000'000;     // about
constexpr const char* kEveryParameter = ".*";      // the paper decays biases, norms and embeddings too
constexpr const char* kEveryKernel = "/kernel$";

// --- the quickstart --------------------------------------------------------------------------------------------------

/// The small model of the quickstart: Fashion-MNIST on two cores.
RunConfig fmnist() {
  RunConfig c;
  ModelConfig& m = c.model;
  m.image_height = m.image_width = 28;
  m.channels = 1;
  m.patch_rows = m.patch_columns = 4;
  m.width = 64;
  m.mlp_width = 256;
  m.heads = 4;
  m.blocks = 2;
  m.classes = 10;
  m.experts = 8;
  m.experts_alike = false;
  m.router.selected = 2;
  c.moe = "every-2";
  c.batch = 64;
  c.leaf_images = 16;
  c.epochs = 8;
  c.learning_rate = 3e-3;
  c.final_learning_rate = 0;
  c.beta2 = 0.99;
  c.weight_decay = 0.05;
  c.schedule = "cosine";
  return c;
}

/// Its dense twin of equal FLOPs: an MoE block works on K * 1.05 slots per token, so every MLP is (1 + K * 1.05) / 2 as
/// wide, to a multiple of 8.
RunConfig fmnist_dense() {
  RunConfig c = fmnist();
  c.moe = "none";
  c.model.mlp_width = 400;
  return c;
}

// --- what the paper's models are made of -----------------------------------------------------------------------------

/// Sizes, and what the paper's recipe makes of them: peak learning rate, epochs of JFT-300M, clipping (0: none).
struct Backbone {
  const char* name;
  std::int64_t width, mlp_width, heads, blocks, patch;
  double learning_rate, epochs, clip_norm;
};
constexpr Backbone kBackbones[] = {
    {"s32", 512, 2048, 8, 8, 32, 1e-3, 5, 0},     {"b32", 768, 3072, 12, 12, 32, 8e-4, 7, 0},
    {"b16", 768, 3072, 12, 12, 16, 8e-4, 7, 0},   {"l32", 1024, 4096, 16, 24, 32, 6e-4, 7, 0},
    {"l16", 1024, 4096, 16, 24, 16, 4e-4, 14, 0}, {"h14", 1280, 5120, 16, 32, 14, 3e-4, 14, 10},
    {"15b", 1408, 6400, 16, 48, 14, 8e-4, 0, 10},  // its length is in steps
};

const Backbone& backbone(const std::string& name) {
  return *std::find_if(std::begin(kBackbones), std::end(kBackbones), [&](const Backbone& b) { return b.name == name; });
}

void set_image_side(RunConfig& c, std::int64_t pixels) { c.model.image_height = c.model.image_width = pixels; }

/// A dense ViT at 224 px. Leaves are one routing group.
RunConfig vision_transformer(const Backbone& b) {
  RunConfig c;
  set_image_side(c, 224);
  c.model.patch_rows = c.model.patch_columns = b.patch;
  c.model.width = b.width;
  c.model.mlp_width = b.mlp_width;
  c.model.heads = b.heads;
  c.model.blocks = b.blocks;
  c.moe = "none";
  c.leaf_images = c.model.router.group_images;
  c.flip = true;
  return c;
}

/// Two experts per token; rows travel to the experts in bfloat16.
void make_sparse(RunConfig& c, const std::string& moe, std::int64_t experts) {
  c.moe = moe;
  c.model.experts = experts;
  c.model.router.selected = 2;
  c.model.router.exchange_bf16 = true;
}

/// What all pre-training has in common, but for 15B: Adam at the size's peak, linearly down to 1e-5.
void pretrain(RunConfig& c, const Backbone& b) {
  c.loss = "sigmoid";
  c.model.head_bias = -10;
  c.batch = 4096;
  c.weight_decay = 0.1;
  c.schedule = "linear";
  c.learning_rate = b.learning_rate;
  c.final_learning_rate = 1e-5;
  c.warmup = 10'000;
}

// --- the paper -------------------------------------------------------------------------------------------------------

struct PaperModel {
  const char* name;
  const char* backbone;
  const char* moe;
};
constexpr PaperModel kPaperModels[] = {
    {"vit-s32", "s32", "none"},
    {"vit-b32", "b32", "none"},
    {"vit-b16", "b16", "none"},
    {"vit-l32", "l32", "none"},
    {"vit-l16", "l16", "none"},
    {"vit-h14", "h14", "none"},
    {"vit-15b", "15b", "none"},
    {"v-moe-s32-last2", "s32", "last-2"},
    {"v-moe-s32-every2", "s32", "every-2"},
    {"v-moe-b32-last2", "b32", "last-2"},
    {"v-moe-b32-every2", "b32", "every-2"},
    {"v-moe-b16-last2", "b16", "last-2"},
    {"v-moe-b16-every2", "b16", "every-2"},
    {"v-moe-l32-last2", "l32", "last-2"},
    {"v-moe-l32-every2", "l32", "every-2"},
    {"v-moe-l16-last2", "l16", "last-2"},
    {"v-moe-l16-every2", "l16", "every-2"},
    {"v-moe-h14-last2", "h14", "last-2"},
    {"v-moe-h14-last5", "h14", "last-5"},
    {"v-moe-h14-every2", "h14", "every-2"},
    {"v-moe-15b", "15b", "every-2"},
};

bool is_on_jft3b(const PaperModel& model) { return std::string(model.backbone) == "15b"; }

/// JFT-300M.
void train_on_jft300m(RunConfig& c, const Backbone& b) {
  c.model.classes = 18'291;
  c.model.representation = c.model.width;
  c.epochs = b.epochs;
}

/// JFT-3B, as V-MoE-15B was trained: Adafactor with its momentum in bfloat16, rsqrt with a cool-down. The paper does
/// not print the rest. Steps follow from its 33.9k ExaFLOPs [derived]; warm-up, timescale and cool-down are those of
/// "Scaling Vision Transformers" (Zhai et al. 2021), whose recipe it takes over; the clipping is H/14's. Second moments
/// must not be factored over the experts' axis, so an axis is factored from E + 1 on.
void train_on_jft3b(RunConfig& c) {
  c.model.classes = 29'593;
  c.steps = 3'050'000;
  c.optimizer = "adafactor";
  c.bf16_momentum = true;
  c.factored_above = 33;
  c.schedule = "rsqrt";
  c.timescale = 10'000;
  c.cooldown = 50'000;
}

RunConfig paper_model(const PaperModel& model) {
  const Backbone& b = backbone(model.backbone);
  RunConfig c = vision_transformer(b);
  if (std::string(model.moe) != "none") make_sparse(c, model.moe, 32);
  c.model.router.capacity.rounding = Capacity::Rounding::nearest;
  c.model.router.capacity.multiple_of = 0;
  pretrain(c, b);
  c.weight_decay_pattern = kEveryParameter;
  c.clip_norm = b.clip_norm;
  if (is_on_jft3b(model)) {
    train_on_jft3b(c);
  } else {
    train_on_jft300m(c, b);
  }
  return c;
}

// --- the released checkpoints ----------------------------------------------------------------------------------------

/// Kernels decay alone, and gradients are clipped for every size.
RunConfig released_model(const std::string& size, const std::string& moe, std::int64_t classes) {
  const Backbone& b = backbone(size);
  RunConfig c = vision_transformer(b);
  make_sparse(c, moe, 8);
  pretrain(c, b);
  c.model.classes = classes;
  c.weight_decay_pattern = kEveryKernel;
  c.clip_norm = 1;
  c.epochs = 300;
  return c;
}

double minus_log(std::int64_t classes) { return -std::log(static_cast<double>(classes)); }

/// From scratch, with the augmentation "light1".
RunConfig s32_on_ilsvrc2012() {
  RunConfig c = released_model("s32", "last-2", 1000);
  c.model.representation = c.model.width;
  c.model.head_bias = minus_log(c.model.classes);
  c.model.expert_dropout = 0.2;
  c.batch = 8192;
  c.learning_rate = 3e-3;
  c.mixup = 0.2;
  return c;
}

/// With the augmentation "strong1".
RunConfig b16_on_imagenet21k() {
  RunConfig c = released_model("b16", "every-2", 21'843);
  c.mixup = 0.5;
  return c;
}

struct Finetuning {
  std::int64_t pixels, classes, steps, warmup;
  double learning_rate;
};

/// The pre-trained model with a new head and without pre_logits; SGD without decay.
RunConfig finetuned(RunConfig c, const Finetuning& to) {
  set_image_side(c, to.pixels);
  c.model.classes = to.classes;
  c.model.representation = 0;
  c.model.head_bias = minus_log(to.classes);
  c.model.expert_dropout = 0;
  c.model.router.capacity.factor = 1.5;
  c.loss = "softmax";
  c.mixup = 0;
  c.batch = 1024;
  c.epochs = 0;
  c.steps = to.steps;
  c.optimizer = "sgd";
  c.momentum = 0.9;
  c.weight_decay = 0;
  c.clip_norm = 10;
  c.schedule = "cosine";
  c.learning_rate = to.learning_rate;
  c.warmup = static_cast<double>(to.warmup);
  return c;
}

// --- all of them -----------------------------------------------------------------------------------------------------

struct Preset {
  std::string name;
  std::int64_t examples;
  std::function<RunConfig()> make;
};

std::vector<Preset> presets() {
  std::vector<Preset> all = {{"fmnist", kFashionMnist, fmnist}, {"fmnist-dense", kFashionMnist, fmnist_dense}};
  for (const PaperModel& model : kPaperModels) {
    all.push_back({model.name, is_on_jft3b(model) ? kJft3B : kJft300M, [&model] { return paper_model(model); }});
  }
  all.push_back({"v-moe-s32-last2-ilsvrc2012", kIlsvrc2012, s32_on_ilsvrc2012});
  all.push_back({"v-moe-b16-every2-imagenet21k", kImageNet21k, b16_on_imagenet21k});
  all.push_back({"v-moe-s32-last2-ilsvrc2012-finetune", kIlsvrc2012, [] {
                   return finetuned(s32_on_ilsvrc2012(), {384, 1000, 10'000, 500, 0.003});
                 }});
  all.push_back({"v-moe-b16-every2-ilsvrc2012-finetune", kIlsvrc2012, [] {
                   return finetuned(b16_on_imagenet21k(), {384, 1000, 10'000, 500, 0.003});
                 }});
  all.push_back({"v-moe-b16-every2-cifar10-finetune", kCifar10, [] {
                   return finetuned(b16_on_imagenet21k(), {128, 10, 1000, 100, 0.0015});
                 }});
  return all;
}

Preset preset_named(const std::string& name) {
  for (const Preset& known : presets()) {
    if (known.name == name) return known;
  }
  fail(ExitCode::usage,
       {text("unknown preset '", name, "'"), "see --help for the presets", did_you_mean(name, preset_names())});
}

}  // namespace

std::vector<std::string> preset_names() {
  std::vector<std::string> names;
  for (const Preset& known : presets()) names.push_back(known.name);
  return names;
}

RunConfig preset(const std::string& name) { return preset_named(name).make(); }

std::int64_t preset_examples(const std::string& name) { return preset_named(name).examples; }

}  // namespace vitrail
