#include "convert/timm_names.hpp"

#include <algorithm>
#include <optional>

namespace vitrail {

namespace {

/// A module of ours, such as "SelfAttention/key", and timm's, of whose rows it may be run `index` of `of`.
struct Module {
  const char* ours;
  const char* timm;
  std::int64_t index = 0;
  std::int64_t of = 1;
};

constexpr Module kBlockModules[] = {{"LayerNorm_0", "norm1"},
                                    {"SelfAttention/query", "attn.qkv", 0, 3},
                                    {"SelfAttention/key", "attn.qkv", 1, 3},
                                    {"SelfAttention/value", "attn.qkv", 2, 3},
                                    {"SelfAttention/out", "attn.proj"},
                                    {"SelfAttention/query_ln", "attn.q_norm"},
                                    {"SelfAttention/key_ln", "attn.k_norm"},
                                    {"LayerNorm_1", "norm2"},
                                    {"Mlp/Dense_0", "mlp.fc1"},
                                    {"Mlp/Dense_1", "mlp.fc2"},
                                    {"Moe/Router/dense", "moe.router"},
                                    {"Moe/Mlp/Dense_0", "moe.experts.fc1"},
                                    {"Moe/Mlp/Dense_1", "moe.experts.fc2"}};
constexpr Module kModules[] = {{"embedding", "patch_embed.proj"},
                               {"Encoder/encoder_norm", "norm"},
                               {"MapHead/MultiHeadDotProductAttention/query", "attn_pool.q"},
                               {"MapHead/MultiHeadDotProductAttention/key", "attn_pool.kv", 0, 2},
                               {"MapHead/MultiHeadDotProductAttention/value", "attn_pool.kv", 1, 2},
                               {"MapHead/MultiHeadDotProductAttention/out", "attn_pool.proj"},
                               {"MapHead/MultiHeadDotProductAttention/query_ln", "attn_pool.q_norm"},
                               {"MapHead/MultiHeadDotProductAttention/key_ln", "attn_pool.k_norm"},
                               {"MapHead/LayerNorm", "attn_pool.norm"},
                               {"MapHead/Mlp/Dense_0", "attn_pool.mlp.fc1"},
                               {"MapHead/Mlp/Dense_1", "attn_pool.mlp.fc2"},
                               {"pre_logits", "pre_logits.fc"},
                               {"head", "head"}};

/// Tensors that are taken as they are.
std::optional<std::string> same_tensor(const std::string& name) {
  if (name == "cls") return "cls_token";
  if (name == "Encoder/posembed_input/pos_embedding") return "pos_embed";
  if (name == "MapHead/probe") return "attn_pool.latent";
  return std::nullopt;
}

Module module_of(std::span<const Module> modules, const std::string& name) {
  const auto found = std::find_if(modules.begin(), modules.end(), [&](const Module& m) { return name == m.ours; });
  VITRAIL_EXPECT(found != modules.end(), ExitCode::usage, text("the parameters of ", name), "timm has no name for them",
                 "");
  return *found;
}

/// A whole tensor that is a run of another's elements, in the same order.
TensorPart run_of(const ParameterSpec& spec, const std::string& from, const Shape& shape, std::int64_t first) {
  return {.to = spec.name,
          .to_shape = spec.shape,
          .from = from,
          .from_shape = shape,
          .from_first = first,
          .a = spec.shape.elements()};
}

/// [E] [in] [out], where in or out may be two axes (heads and their channels), of [E] [of * out] [in].
TensorPart linear_of(const ParameterSpec& spec, const std::string& from, const Module& module) {
  const Shape& shape = spec.shape;
  const std::int64_t experts = spec.expert ? shape[0] : 1;
  const bool from_heads = spec.name.ends_with("/out/kernel");
  const std::int64_t in = spec.expert ? shape[1] : (from_heads ? shape[0] * shape[1] : shape[0]);
  const std::int64_t out = shape.elements() / experts / in;
  return {.to = spec.name,
          .to_shape = shape,
          .from = from,
          .from_shape = spec.expert ? Shape{experts, out, in} : Shape{module.of * out, in},
          .from_first = module.index * out * in,
          .lead = experts,
          .a = in,
          .c = out};
}

std::optional<std::int64_t> heads_of(std::span<const TensorInfo> tensors, const ModelHints& hints, std::int64_t width) {
  if (hints.heads) return hints.heads;
  for (const TensorInfo& tensor : tensors) {
    const bool of_head = tensor.name.ends_with(".attn.q_norm.weight") && tensor.shape.axes() == 1;
    if (of_head && tensor.shape[0] > 0 && width % tensor.shape[0] == 0) return width / tensor.shape[0];
  }
  return std::nullopt;
}

}  // namespace

TensorPart timm_part(const ParameterSpec& spec) {
  const std::string& name = spec.name;
  if (const auto same = same_tensor(name)) return run_of(spec, *same, spec.shape, 0);
  const std::size_t last = name.rfind('/');
  const std::string leaf = name.substr(last + 1);
  std::string of = name.substr(0, last);
  std::string at;
  if (of.starts_with("Encoder/encoderblock_")) {
    const std::size_t number = std::string("Encoder/encoderblock_").size();
    const std::size_t slash = of.find('/', number);
    at = "blocks." + of.substr(number, slash - number) + ".";
    of = of.substr(slash + 1);
    if (of == "Moe/Router" && leaf != "kernel") return run_of(spec, at + "moe.router." + leaf, spec.shape, 0);
  }
  const Module module = at.empty() ? module_of(kModules, of) : module_of(kBlockModules, of);
  const std::string from = at + module.timm + (leaf == "bias" ? ".bias" : ".weight");
  if (name == "embedding/kernel") {
    const Shape& s = spec.shape;
    return {.to = name,
            .to_shape = s,
            .from = from,
            .from_shape = {s[3], s[2], s[0], s[1]},
            .a = s[0] * s[1],
            .b = s[2],
            .c = s[3]};
  }
  if (leaf == "kernel") return linear_of(spec, from, module);
  const std::int64_t count = spec.shape.elements();
  return run_of(spec, from, spec.expert ? spec.shape : Shape{module.of * count}, module.index * count);
}

std::map<std::string, Shape> shapes_of_timm(std::span<const TensorInfo> tensors, const std::string& file,
                                            const ModelHints& hints, std::vector<std::string>& assumptions) {
  std::map<std::string, Shape> theirs;
  std::vector<std::string> names;
  for (const TensorInfo& tensor : tensors) {
    theirs[tensor.name] = tensor.shape;
    names.push_back(tensor.name);
  }
  VITRAIL_EXPECT(!theirs.contains("fc_norm.weight"), ExitCode::usage, text(file, " has fc_norm.weight"),
                 "that model normalises the mean of its tokens; ours means over normalised tokens, which is not equal",
                 "Take a model with a class token, or one whose encoder ends with norm.weight");
  for (const char* needed : {"patch_embed.proj.weight", "blocks.0.attn.qkv.weight", "head.weight"}) {
    VITRAIL_EXPECT(theirs.contains(needed), ExitCode::checkpoint, text(file, " has no tensor ", needed),
                   "a vision transformer of timm has one", did_you_mean(needed, names));
  }
  const Shape& embedding = theirs.at("patch_embed.proj.weight");
  VITRAIL_EXPECT(embedding.axes() == 4, ExitCode::checkpoint,
                 text(file, ": patch_embed.proj.weight is ", embedding.str()), "it is [width channels rows columns]",
                 "");
  const std::int64_t width = embedding[0];
  std::map<std::string, Shape> ours = {{"embedding/kernel", {embedding[2], embedding[3], embedding[1], embedding[0]}}};
  std::optional<std::int64_t> heads = heads_of(tensors, hints, width);
  if (!heads) {
    VITRAIL_EXPECT(width % 64 == 0, ExitCode::usage,
                   text(file, " does not say how many heads ", width, " channels have"),
                   "in timm's models a head has 64 channels, but here these do not come out even", "Give --heads");
    heads = width / 64;
    assumptions.push_back(text(*heads, " heads of 64 channels (--heads: other)"));
  }
  VITRAIL_EXPECT(*heads > 0 && width % *heads == 0, ExitCode::usage, text(*heads, " heads"),
                 text(file, " has ", width, " channels, which heads share out evenly"), "");
  // Axes that are turned round there.
  const auto turned = [](const Shape& s) {
    std::vector<std::int64_t> lengths(s.lengths().begin(), s.lengths().end());
    if (lengths.size() >= 2) std::swap(lengths[lengths.size() - 1], lengths[lengths.size() - 2]);
    return Shape(std::span<const std::int64_t>(lengths));
  };
  for (const auto& [name, shape] : theirs) {
    if (name == "cls_token") ours["cls"] = shape;
    if (name == "pos_embed") ours["Encoder/posembed_input/pos_embedding"] = shape;
    if (name == "attn_pool.latent") ours["MapHead/probe"] = shape;
    if (name == "head.weight") ours["head/kernel"] = turned(shape);
    if (name == "pre_logits.fc.weight") ours["pre_logits/kernel"] = turned(shape);
    if (!name.starts_with("blocks.")) continue;
    const std::size_t dot = name.find('.', 7);
    if (dot == std::string::npos) continue;
    const std::string at = "Encoder/encoderblock_" + name.substr(7, dot - 7);
    const std::string rest = name.substr(dot + 1);
    if (rest == "attn.qkv.weight") ours[at + "/SelfAttention/query/kernel"] = {width, *heads, width / *heads};
    if (rest == "attn.q_norm.weight") ours[at + "/SelfAttention/query_ln/scale"] = shape;
    if (rest == "mlp.fc1.weight") ours[at + "/Mlp/Dense_0/kernel"] = turned(shape);
    if (rest == "moe.experts.fc1.weight") ours[at + "/Moe/Mlp/Dense_0/kernel"] = turned(shape);
    if (rest == "moe.router.mu") ours[at + "/Moe/Router/mu"] = shape;
  }
  return ours;
}

}  // namespace vitrail
