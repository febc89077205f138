// How every tensor starts, by its name: kind, mean, deviation and range. [V-MoE]

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <regex>
#include <set>

#include <gtest/gtest.h>

#include "tests/model/small_model.hpp"

namespace vitrail::testing {
namespace {

constexpr std::int64_t kWidth = 256;
constexpr std::int64_t kMlpWidth = 1024;
constexpr std::int64_t kExperts = 3;
constexpr std::int64_t kPatch = std::int64_t{8} * 8 * 3;
constexpr std::int64_t kRepresentation = 128;
constexpr double kHeadBias = -6.5;

ModelConfig model() {
  ModelConfig c;
  c.image_height = c.image_width = 64;
  c.patch_rows = c.patch_columns = 8;
  c.width = kWidth;
  c.mlp_width = kMlpWidth;
  c.heads = 4;
  c.blocks = 2;
  c.classes = 40;
  c.moe_blocks = {1};
  c.experts = kExperts;
  c.representation = kRepresentation;
  c.head_bias = kHeadBias;
  return c;
}

/// A pooling head, norms of queries and keys, Soft MoE, a head that does not start at zero.
ModelConfig soft_model() {
  ModelConfig c = model();
  c.classifier = Classifier::map;
  c.qk_norm = true;
  c.head_zero = false;
  c.router.kind = RouterKind::soft;
  c.router.capacity.factor.reset();
  c.router.capacity.slots = 2;
  return c;
}

/// What is drawn, scaled to the deviation 1, never lies beyond `range`, and among a thousand draws some lie beyond
/// `reached`: the three kinds differ here more than in anything else.
struct Kind {
  const char* name;
  double range;
  double reached;
};
constexpr double kInfinity = std::numeric_limits<double>::infinity();
const Kind kUniform = {"uniform", std::sqrt(3.0), 1.6};
const Kind kTruncated = {"normal, cut at two deviations", 2 / 0.87962566103423978, 1.85};
const Kind kNormal = {"normal", kInfinity, 2.4};

struct Start {
  Kind kind;
  double mean;
  double deviation;
};
Start constant(double value) { return {kNormal, value, 0}; }
Start normal(double deviation) { return {kNormal, 0, deviation}; }
Start lecun(double fan_in) { return {kTruncated, 0, std::sqrt(1 / fan_in)}; }
Start xavier(double fan_in, double fan_out) { return {kUniform, 0, std::sqrt(2 / (fan_in + fan_out))}; }

/// The specification: the first pattern that matches the whole name counts.
Start expected_start(const ModelConfig& c, const std::string& name) {
  const double features = static_cast<double>(c.features());
  const std::pair<const char*, Start> rules[] = {
      {"cls", constant(0)},
      {"embedding/kernel", lecun(kPatch)},
      {"Encoder/posembed_input/pos_embedding", normal(0.02)},
      {"pre_logits/kernel", lecun(kWidth)},
      {"head/kernel", c.head_zero ? constant(0) : lecun(features)},
      {"head/bias", constant(kHeadBias)},
      {".*(_ln|LayerNorm(_[01])?|encoder_norm)/scale", constant(1)},
      {".*(LayerNorm(_[01])?|encoder_norm)/bias", constant(0)},
      {".*(SelfAttention|MultiHeadDotProductAttention)/(query|key|value|out)/kernel", xavier(kWidth, kWidth)},
      {".*(SelfAttention|MultiHeadDotProductAttention)/(query|key|value|out)/bias", constant(0)},
      {".*Mlp/Dense_[01]/kernel", xavier(kWidth, kMlpWidth)},
      {".*Mlp/Dense_[01]/bias", normal(1e-6)},
      {".*Moe/Router/dense/kernel", lecun(kWidth)},
      {".*Moe/Router/mu", lecun(kWidth * kExperts)},
      {".*Moe/Router/scale", constant(1)},
      {"MapHead/probe", xavier(1, kWidth)},
      {"(embedding|pre_logits)/bias", constant(0)},
  };
  for (const auto& [pattern, start] : rules) {
    if (std::regex_match(name, std::regex(pattern))) return start;
  }
  ADD_FAILURE() << "no rule says how " << name << " starts";
  return constant(0);
}

/// Five standard errors: a sound generator fails once in a million.
void expect_start(const std::vector<double>& values, const Start& start, const std::string& name) {
  if (start.deviation == 0) {
    EXPECT_EQ(std::count(values.begin(), values.end(), start.mean), std::ssize(values)) << name << " is not constant";
    return;
  }
  const auto n = static_cast<double>(values.size());
  double mean = 0;
  for (const double x : values) mean += x / n;
  double variance = 0;
  double largest = 0;
  for (const double x : values) {
    variance += (x - mean) * (x - mean) / n;
    largest = std::max(largest, std::abs(x - start.mean));
  }
  EXPECT_NEAR(mean, start.mean, 5 * start.deviation / std::sqrt(n)) << name;
  EXPECT_NEAR(std::sqrt(variance), start.deviation, 5 * start.deviation / std::sqrt(2 * n)) << name;
  EXPECT_LE(largest, start.kind.range * start.deviation * (1 + 1e-12)) << name << " is not " << start.kind.name;
  if (n >= 1000) {
    EXPECT_GE(largest, start.kind.reached * start.deviation) << name << " is not " << start.kind.name;
  }
}

std::vector<double> initial_values(const ParameterSpec& spec, std::uint32_t number, bool alike) {
  const auto device = make_cpu_device();
  const TableMemory memory(*device, Dtype::f64, {spec});
  initialize(*make_reference_ops(), spec, 5, number, alike, 0, memory.tensors[0]);
  return to_doubles(memory.tensors[0]);
}

/// The values of each expert; of other tensors all as one.
std::vector<std::vector<double>> by_expert(const ParameterSpec& spec, const std::vector<double>& values) {
  const auto experts = static_cast<std::size_t>(spec.expert ? spec.shape[0] : 1);
  const auto each = static_cast<std::ptrdiff_t>(values.size() / experts);
  std::vector<std::vector<double>> parts;
  for (auto first = values.begin(); first != values.end(); first += each) parts.emplace_back(first, first + each);
  return parts;
}

void expect_all_start_as_specified(const ModelConfig& c) {
  const std::vector<ParameterSpec> table = parameter_table(c);
  for (std::size_t i = 0; i < table.size(); ++i) {
    const Start start = expected_start(c, table[i].name);
    const std::vector<double> values = initial_values(table[i], static_cast<std::uint32_t>(i), false);
    for (const std::vector<double>& part : by_expert(table[i], values)) expect_start(part, start, table[i].name);
  }
}

TEST(InitialValues, OfEveryTensorHaveTheKindAndSizeThatItsNameAsksFor) {
  expect_all_start_as_specified(model());
  ModelConfig c = model();
  c.representation = 0;
  c.moe_blocks.clear();
  expect_all_start_as_specified(c);
}

TEST(InitialValues, OfPoolingHeadAndSoftRouterAreTheOriginals) {
  std::set<std::string> names;
  for (const ParameterSpec& spec : parameter_table(soft_model())) names.insert(spec.name);
  const std::string block = "Encoder/encoderblock_1/";
  for (const std::string& name : {std::string("MapHead/probe"), block + "Moe/Router/mu", block + "Moe/Router/scale",
                                  block + "SelfAttention/query_ln/scale", block + "SelfAttention/key_ln/scale"}) {
    EXPECT_TRUE(names.contains(name)) << name;
  }
  expect_all_start_as_specified(soft_model());
}

TEST(InitialValues, OfExpertsAreEqualWhenAlikeAndAllDifferentWhenNot) {
  const std::vector<ParameterSpec> table = parameter_table(model());
  std::set<std::string> experts;
  for (std::size_t i = 0; i < table.size(); ++i) {
    if (!table[i].expert) continue;
    experts.insert(table[i].name.substr(table[i].name.find("Moe/")));
    const auto number = static_cast<std::uint32_t>(i);
    const auto alike = by_expert(table[i], initial_values(table[i], number, true));
    const auto apart = by_expert(table[i], initial_values(table[i], number, false));
    ASSERT_EQ(std::ssize(alike), kExperts);
    for (const std::vector<double>& expert : alike) EXPECT_TRUE(expert == apart[0]) << table[i].name;
    EXPECT_EQ(std::set(apart.begin(), apart.end()).size(), apart.size()) << table[i].name;
  }
  EXPECT_EQ(experts, (std::set<std::string>{"Moe/Mlp/Dense_0/kernel", "Moe/Mlp/Dense_0/bias", "Moe/Mlp/Dense_1/kernel",
                                            "Moe/Mlp/Dense_1/bias"}));
}

TEST(InitialValues, OfTensorsOfOneShapeAreDrawnApart) {
  const std::vector<ParameterSpec> table = parameter_table(model());
  std::map<std::vector<double>, std::string> drawn;
  for (std::size_t i = 0; i < table.size(); ++i) {
    if (table[i].initializer == Initializer::constant) continue;
    std::vector<double> values = initial_values(table[i], static_cast<std::uint32_t>(i), true);
    values.resize(std::min<std::size_t>(values.size(), 100));
    const auto [same, is_new] = drawn.emplace(std::move(values), table[i].name);
    EXPECT_TRUE(is_new) << table[i].name << " starts like " << same->second;
  }
}

}  // namespace
}  // namespace vitrail::testing
