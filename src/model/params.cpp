#include "model/params.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

namespace vitrail {

namespace {

/// Writes the table, tensor after tensor.
class TableWriter {
 public:
  void constant(const std::string& name, Shape shape, double value, bool expert = false) {
    add({name, shape, expert, Initializer::constant, value, 1, 1});
  }
  void normal(const std::string& name, Shape shape, double deviation, bool expert = false) {
    add({name, shape, expert, Initializer::normal, deviation, 1, 1});
  }
  void lecun_normal(const std::string& name, Shape shape, std::int64_t fan_in) {
    add({name, shape, false, Initializer::lecun_normal, 0, fan_in, 1});
  }
  void xavier_uniform(const std::string& name, Shape shape, std::int64_t fan_in, std::int64_t fan_out,
                      bool expert = false) {
    add({name, shape, expert, Initializer::xavier_uniform, 0, fan_in, fan_out});
  }
  void layernorm(const std::string& name, std::int64_t width) {
    constant(name + "/scale", {width}, 1);
    constant(name + "/bias", {width}, 0);
  }
  void attention(const std::string& name, const ModelConfig& c) {
    const std::int64_t d = c.width;
    const std::int64_t dh = d / c.heads;
    for (const char* projection : {"/query", "/key", "/value"}) {
      xavier_uniform(name + projection + "/kernel", {d, c.heads, dh}, d, d);
      constant(name + projection + "/bias", {c.heads, dh}, 0);
    }
    xavier_uniform(name + "/out/kernel", {c.heads, dh, d}, d, d);
    constant(name + "/out/bias", {d}, 0);
    if (!c.qk_norm) return;
    for (const char* norm : {"/query_ln", "/key_ln"}) constant(name + norm + "/scale", {dh}, 1);
  }
  /// One MLP, or one for each of `experts`.
  void mlp(const std::string& name, std::int64_t d, std::int64_t f, std::int64_t experts = 0) {
    const bool expert = experts > 0;
    const auto shape = [&](std::int64_t rows, std::int64_t columns) {
      return expert ? Shape{experts, rows, columns} : Shape{rows, columns};
    };
    const auto bias = [&](std::int64_t n) { return expert ? Shape{experts, n} : Shape{n}; };
    xavier_uniform(name + "/Dense_0/kernel", shape(d, f), d, f, expert);
    normal(name + "/Dense_0/bias", bias(f), 1e-6, expert);
    xavier_uniform(name + "/Dense_1/kernel", shape(f, d), f, d, expert);
    normal(name + "/Dense_1/bias", bias(d), 1e-6, expert);
  }
  std::vector<ParameterSpec> table;

 private:
  void add(ParameterSpec spec) {
    spec.mlp = spec.name.starts_with("Encoder/") && spec.name.find("/Mlp/Dense_") != std::string::npos &&
               spec.name.ends_with("/kernel");
    spec.product = spec.name.ends_with("/kernel") && !spec.name.ends_with("/Router/dense/kernel");
    table.push_back(std::move(spec));
  }
};

std::string block_name(std::int64_t block) { return "Encoder/encoderblock_" + std::to_string(block); }
std::string mlp_name(const ModelConfig& c, std::int64_t block) {
  return block_name(block) + (c.is_moe(block) ? "/Moe/Mlp" : "/Mlp");
}

void write_block(TableWriter& write, const ModelConfig& c, std::int64_t block) {
  const std::string at = block_name(block);
  const std::int64_t d = c.width;
  write.layernorm(at + "/LayerNorm_0", d);
  write.attention(at + "/SelfAttention", c);
  write.layernorm(at + "/LayerNorm_1", d);
  if (!c.is_moe(block)) return write.mlp(mlp_name(c, block), d, c.mlp_width);
  if (c.router.kind == RouterKind::soft) {
    // jax counts every axis but the last two as the receptive field of a convolution.
    write.lecun_normal(at + "/Moe/Router/mu", {d, c.experts, c.slots()}, d * c.experts);
    write.constant(at + "/Moe/Router/scale", {}, 1);
  } else {
    write.lecun_normal(at + "/Moe/Router/dense/kernel", {d, c.experts}, d);
  }
  write.mlp(mlp_name(c, block), d, c.mlp_width, c.experts);
}

}  // namespace

std::vector<ParameterSpec> parameter_table(const ModelConfig& c) {
  TableWriter write;
  const std::int64_t d = c.width;
  const std::int64_t patch = c.patch_rows * c.patch_columns * c.channels;
  write.lecun_normal("embedding/kernel", {c.patch_rows, c.patch_columns, c.channels, d}, patch);
  write.constant("embedding/bias", {d}, 0);
  if (c.classifier == Classifier::token) write.constant("cls", {1, 1, d}, 0);
  if (c.positions == PositionEmbedding::learned) {
    write.normal("Encoder/posembed_input/pos_embedding", {1, c.tokens(), d}, 0.02);
  }
  for (std::int64_t block = 0; block < c.blocks; ++block) write_block(write, c, block);
  write.layernorm("Encoder/encoder_norm", d);
  if (c.classifier == Classifier::map) {
    write.xavier_uniform("MapHead/probe", {1, 1, d}, 1, d);
    write.attention("MapHead/MultiHeadDotProductAttention", c);
    write.layernorm("MapHead/LayerNorm", d);
    write.mlp("MapHead/Mlp", d, c.mlp_width);
  }
  if (c.representation > 0) {
    write.lecun_normal("pre_logits/kernel", {d, c.representation}, d);
    write.constant("pre_logits/bias", {c.representation}, 0);
  }
  if (c.head_zero) {
    write.constant("head/kernel", {c.features(), c.classes}, 0);
  } else {
    write.lecun_normal("head/kernel", {c.features(), c.classes}, c.features());
  }
  write.constant("head/bias", {c.classes}, c.head_bias);
  return std::move(write.table);
}

std::int64_t parameter_count(const std::vector<ParameterSpec>& table) {
  std::int64_t count = 0;
  for (const ParameterSpec& spec : table) count += spec.shape.elements();
  return count;
}

namespace {

/// Hands out the tensors of a table by name.
class Binder {
 public:
  Binder(const std::vector<ParameterSpec>& table, const std::vector<Tensor>& tensors)
      : table_(table), tensors_(tensors) {
    VITRAIL_EXPECT(table.size() == tensors.size(), ExitCode::other, "tensors do not fit the table", "this is a bug",
                   "");
  }
  [[nodiscard]] Tensor operator()(const std::string& name) const {
    for (std::size_t i = 0; i < table_.size(); ++i) {
      if (table_[i].name == name) return tensors_[i];
    }
    fail(ExitCode::other, {"parameter '" + name + "' is not in the table", "this is a bug", ""});
  }
  /// A dense tensor seen as a matrix of `rows`.
  [[nodiscard]] Tensor matrix(const std::string& name, std::int64_t rows) const {
    const Tensor tensor = (*this)(name);
    return tensor.view({rows, tensor.elements() / rows});
  }
  [[nodiscard]] Tensor vector(const std::string& name) const {
    const Tensor tensor = (*this)(name);
    return tensor.view({tensor.elements()});
  }
  [[nodiscard]] LayernormParams layernorm(const std::string& name) const {
    return {(*this)(name + "/scale"), (*this)(name + "/bias")};
  }
  /// A dense layer with `in` input channels, with the leading axis E = 1.
  [[nodiscard]] LinearParams linear(const std::string& name, std::int64_t in) const {
    const Tensor w = (*this)(name + "/kernel");
    const Tensor b = (*this)(name + "/bias");
    return {w.view({1, in, w.elements() / in}), b.view({1, b.elements()}), nullptr};
  }
  [[nodiscard]] LinearParams experts(const std::string& name) const {
    return {(*this)(name + "/kernel"), (*this)(name + "/bias"), nullptr};
  }

 private:
  const std::vector<ParameterSpec>& table_;
  const std::vector<Tensor>& tensors_;
};

AttentionParams bind_attention(const ModelConfig& c, const Binder& bind, const std::string& at) {
  const std::int64_t d = c.width;
  AttentionParams params{bind.matrix(at + "/query/kernel", d),
                         bind.matrix(at + "/key/kernel", d),
                         bind.matrix(at + "/value/kernel", d),
                         bind.vector(at + "/query/bias"),
                         bind.vector(at + "/key/bias"),
                         bind.vector(at + "/value/bias"),
                         bind.linear(at + "/out", d),
                         {},
                         {}};
  if (c.qk_norm) {
    params.query_norm.scale = bind(at + "/query_ln/scale");
    params.key_norm.scale = bind(at + "/key_ln/scale");
  }
  return params;
}

BlockParams bind_block(const ModelConfig& c, const Binder& bind, std::int64_t block) {
  const std::string at = block_name(block);
  const std::int64_t d = c.width;
  BlockParams params;
  params.norm0 = bind.layernorm(at + "/LayerNorm_0");
  params.attention = bind_attention(c, bind, at + "/SelfAttention");
  params.norm1 = bind.layernorm(at + "/LayerNorm_1");
  if (!c.is_moe(block)) {
    params.mlp0 = bind.linear(mlp_name(c, block) + "/Dense_0", d);
    params.mlp1 = bind.linear(mlp_name(c, block) + "/Dense_1", c.mlp_width);
    return params;
  }
  if (c.router.kind == RouterKind::soft) {
    params.slots = bind.matrix(at + "/Moe/Router/mu", d);
    params.slots_scale = bind.vector(at + "/Moe/Router/scale");
  } else {
    params.router = bind(at + "/Moe/Router/dense/kernel").view({1, d, c.experts});
  }
  params.mlp0 = bind.experts(mlp_name(c, block) + "/Dense_0");
  params.mlp1 = bind.experts(mlp_name(c, block) + "/Dense_1");
  return params;
}

}  // namespace

VitMoeParams bind_params(const ModelConfig& c, const std::vector<ParameterSpec>& table,
                         const std::vector<Tensor>& tensors) {
  const Binder bind(table, tensors);
  VitMoeParams params;
  params.embedding = bind.linear("embedding", c.patch_rows * c.patch_columns * c.channels);
  if (c.classifier == Classifier::token) params.class_token = bind.vector("cls");
  if (c.positions == PositionEmbedding::learned) {
    params.positions = bind.matrix("Encoder/posembed_input/pos_embedding", c.tokens());
  }
  for (std::int64_t block = 0; block < c.blocks; ++block) params.blocks.push_back(bind_block(c, bind, block));
  params.encoder_norm = bind.layernorm("Encoder/encoder_norm");
  if (c.classifier == Classifier::map) {
    params.map = {bind.vector("MapHead/probe"), bind_attention(c, bind, "MapHead/MultiHeadDotProductAttention"),
                  bind.layernorm("MapHead/LayerNorm"), bind.linear("MapHead/Mlp/Dense_0", c.width),
                  bind.linear("MapHead/Mlp/Dense_1", c.mlp_width)};
  }
  if (c.representation > 0) params.pre_logits = bind.linear("pre_logits", c.width);
  params.head = bind.linear("head", c.features());
  return params;
}

void bind_updates(const ModelConfig& c, const std::vector<ParameterSpec>& table,
                  const std::vector<const EarlyUpdate*>& updates, VitMoeParams& gradients) {
  for (std::int64_t block = 0; block < c.blocks; ++block) {
    BlockParams& params = gradients.blocks[static_cast<std::size_t>(block)];
    for (const auto& [layer, linear] : {std::pair{"/Dense_0", &params.mlp0}, {"/Dense_1", &params.mlp1}}) {
      const std::string name = mlp_name(c, block) + layer + "/kernel";
      const auto spec = std::find_if(table.begin(), table.end(), [&](const auto& one) { return one.name == name; });
      const EarlyUpdate* const update = updates[static_cast<std::size_t>(spec - table.begin())];
      if (update == nullptr) continue;
      linear->update = update;
      linear->w = {};
    }
  }
}

void initialize(Ops& ops, const ParameterSpec& spec, std::uint64_t seed, std::uint32_t number, bool experts_alike,
                std::int64_t first_expert, Tensor tensor) {
  const std::int64_t experts = spec.expert ? tensor.shape[0] : 1;
  if (tensor.elements() == 0) return;
  const std::int64_t each = tensor.elements() / experts;
  const bool apart = spec.expert && !experts_alike;
  InitialValues values{.seed = seed,
                       .tensor = number,
                       .first_index = apart ? static_cast<std::uint64_t>(first_expert * each) : 0,
                       .y = tensor.view(apart ? Shape{1, experts * each} : Shape{experts, each})};
  switch (spec.initializer) {
    case Initializer::constant:
      values.number = InitialValues::Number::one;
      values.scale = spec.value;
      break;
    case Initializer::normal:
      values.number = InitialValues::Number::normal;
      values.scale = spec.value;
      break;
    case Initializer::lecun_normal:
      values.number = InitialValues::Number::truncated_normal;
      values.scale = std::sqrt(1.0 / static_cast<double>(spec.fan_in)) / 0.87962566103423978;
      break;
    case Initializer::xavier_uniform:
      values.number = InitialValues::Number::uniform;
      values.scale = std::sqrt(6.0 / static_cast<double>(spec.fan_in + spec.fan_out));
      break;
  }
  ops.initial_values(values);
}

}  // namespace vitrail
