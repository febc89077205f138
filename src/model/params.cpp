#include "model/params.hpp"

#include <cmath>

#include "base/philox.hpp"
#include "device/host_values.hpp"

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
  std::vector<ParameterSpec> table;

 private:
  void add(ParameterSpec spec) { table.push_back(std::move(spec)); }
};

void write_block(TableWriter& write, const ModelConfig& c, std::int64_t block) {
  const std::string at = "Encoder/encoderblock_" + std::to_string(block);
  const std::int64_t d = c.width;
  const std::int64_t f = c.mlp_width;
  const std::int64_t dh = d / c.heads;
  write.layernorm(at + "/LayerNorm_0", d);
  for (const char* projection : {"query", "key", "value"}) {
    const std::string name = at + "/SelfAttention/" + projection;
    write.xavier_uniform(name + "/kernel", {d, c.heads, dh}, d, d);
    write.constant(name + "/bias", {c.heads, dh}, 0);
  }
  write.xavier_uniform(at + "/SelfAttention/out/kernel", {c.heads, dh, d}, d, d);
  write.constant(at + "/SelfAttention/out/bias", {d}, 0);
  write.layernorm(at + "/LayerNorm_1", d);
  if (c.is_moe(block)) {
    const std::int64_t e = c.experts;
    write.lecun_normal(at + "/Moe/Router/dense/kernel", {d, e}, d);
    write.xavier_uniform(at + "/Moe/Mlp/Dense_0/kernel", {e, d, f}, d, f, true);
    write.normal(at + "/Moe/Mlp/Dense_0/bias", {e, f}, 1e-6, true);
    write.xavier_uniform(at + "/Moe/Mlp/Dense_1/kernel", {e, f, d}, f, d, true);
    write.normal(at + "/Moe/Mlp/Dense_1/bias", {e, d}, 1e-6, true);
  } else {
    write.xavier_uniform(at + "/Mlp/Dense_0/kernel", {d, f}, d, f);
    write.normal(at + "/Mlp/Dense_0/bias", {f}, 1e-6);
    write.xavier_uniform(at + "/Mlp/Dense_1/kernel", {f, d}, f, d);
    write.normal(at + "/Mlp/Dense_1/bias", {d}, 1e-6);
  }
}

}  // namespace

std::vector<ParameterSpec> parameter_table(const ModelConfig& c) {
  TableWriter write;
  const std::int64_t d = c.width;
  const std::int64_t patch = c.patch_rows * c.patch_columns * c.channels;
  write.lecun_normal("embedding/kernel", {c.patch_rows, c.patch_columns, c.channels, d}, patch);
  write.constant("embedding/bias", {d}, 0);
  write.constant("cls", {1, 1, d}, 0);
  write.normal("Encoder/posembed_input/pos_embedding", {1, c.tokens(), d}, 0.02);
  for (std::int64_t block = 0; block < c.blocks; ++block) write_block(write, c, block);
  write.layernorm("Encoder/encoder_norm", d);
  if (c.representation > 0) {
    write.lecun_normal("pre_logits/kernel", {d, c.representation}, d);
    write.constant("pre_logits/bias", {c.representation}, 0);
  }
  write.constant("head/kernel", {c.representation > 0 ? c.representation : d, c.classes}, 0);
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
    return {w.view({1, in, w.elements() / in}), b.view({1, b.elements()})};
  }
  [[nodiscard]] LinearParams experts(const std::string& name) const {
    return {(*this)(name + "/kernel"), (*this)(name + "/bias")};
  }

 private:
  const std::vector<ParameterSpec>& table_;
  const std::vector<Tensor>& tensors_;
};

BlockParams bind_block(const ModelConfig& c, const Binder& bind, std::int64_t block) {
  const std::string at = "Encoder/encoderblock_" + std::to_string(block);
  const std::string attention = at + "/SelfAttention/";
  const std::int64_t d = c.width;
  BlockParams params;
  params.norm0 = bind.layernorm(at + "/LayerNorm_0");
  params.attention = {bind.matrix(attention + "query/kernel", d), bind.matrix(attention + "key/kernel", d),
                      bind.matrix(attention + "value/kernel", d), bind.vector(attention + "query/bias"),
                      bind.vector(attention + "key/bias"),        bind.vector(attention + "value/bias"),
                      bind.linear(attention + "out", d)};
  params.norm1 = bind.layernorm(at + "/LayerNorm_1");
  if (c.is_moe(block)) {
    params.router = bind(at + "/Moe/Router/dense/kernel").view({1, d, c.experts});
    params.mlp0 = bind.experts(at + "/Moe/Mlp/Dense_0");
    params.mlp1 = bind.experts(at + "/Moe/Mlp/Dense_1");
  } else {
    params.mlp0 = bind.linear(at + "/Mlp/Dense_0", d);
    params.mlp1 = bind.linear(at + "/Mlp/Dense_1", c.mlp_width);
  }
  return params;
}

}  // namespace

VitMoeParams bind_params(const ModelConfig& c, const std::vector<ParameterSpec>& table,
                         const std::vector<Tensor>& tensors) {
  const Binder bind(table, tensors);
  VitMoeParams params;
  params.embedding = bind.linear("embedding", c.patch_rows * c.patch_columns * c.channels);
  params.class_token = bind.vector("cls");
  params.positions = bind.matrix("Encoder/posembed_input/pos_embedding", c.tokens());
  for (std::int64_t block = 0; block < c.blocks; ++block) params.blocks.push_back(bind_block(c, bind, block));
  params.encoder_norm = bind.layernorm("Encoder/encoder_norm");
  if (c.representation > 0) params.pre_logits = bind.linear("pre_logits", c.width);
  params.head = bind.linear("head", c.representation > 0 ? c.representation : c.width);
  return params;
}

namespace {

/// Value `index` of N(0,1) truncated to [-2, 2]: the first of a sequence of draws that lies inside.
double truncated_normal(std::uint64_t seed, std::uint32_t number, std::uint64_t index) {
  for (std::uint64_t attempt = 0;; ++attempt) {
    const double x = Philox(seed, Purpose::initialisation, attempt, number).normal(index);
    if (std::abs(x) <= 2) return x;
  }
}

double initial_value(const ParameterSpec& spec, std::uint64_t seed, std::uint32_t number, std::uint64_t index) {
  const Philox random(seed, Purpose::initialisation, 0, number);
  switch (spec.initializer) {
    case Initializer::constant:
      return spec.value;
    case Initializer::normal:
      return spec.value * random.normal(index);
    case Initializer::lecun_normal:
      return truncated_normal(seed, number, index) * std::sqrt(1.0 / static_cast<double>(spec.fan_in)) /
             0.87962566103423978;
    case Initializer::xavier_uniform:
      return (2 * random.uniform(index) - 1) * std::sqrt(6.0 / static_cast<double>(spec.fan_in + spec.fan_out));
  }
  return 0;
}

}  // namespace

void initialize(const ParameterSpec& spec, std::uint64_t seed, std::uint32_t number, bool experts_alike,
                std::int64_t first_expert, Tensor tensor) {
  const std::int64_t experts = spec.expert ? tensor.shape[0] : 1;
  const std::int64_t each = tensor.elements() / (experts > 0 ? experts : 1);
  const Tensor rows = tensor.view({experts, each});
  std::vector<double> values(static_cast<std::size_t>(each));
  for (std::int64_t e = 0; e < experts; ++e) {
    const std::int64_t drawn_for = spec.expert && !experts_alike ? first_expert + e : 0;
    for (std::int64_t i = 0; i < each; ++i) {
      values[static_cast<std::size_t>(i)] =
          initial_value(spec, seed, number, static_cast<std::uint64_t>(drawn_for * each + i));
    }
    from_doubles(values, rows.slice(e, 1).view({each}));
  }
}

}  // namespace vitrail
