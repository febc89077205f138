// The table of parameters and their initial values. [V-MoE]

#include <cmath>
#include <set>

#include <gtest/gtest.h>

#include "tests/model/small_model.hpp"

namespace vitrail::testing {
namespace {

ModelConfig wide_config() {
  ModelConfig c = small_config();
  c.width = 64;
  c.mlp_width = 96;
  c.classes = 10;
  c.head_bias = -2.5;
  c.representation = 48;
  return c;
}

struct Initialised {
  ParameterSpec spec;
  std::uint32_t number = 0;
  std::vector<double> values;
};

/// `count` entries of the first axis of an expert tensor from `first`; of other tensors everything.
Initialised initialised(const ModelConfig& c, const std::string& name, bool alike = false, std::uint64_t seed = 1,
                        std::int64_t first = 0, std::int64_t count = 0) {
  const std::vector<ParameterSpec> table = parameter_table(c);
  for (std::size_t i = 0; i < table.size(); ++i) {
    if (table[i].name != name) continue;
    ParameterSpec here = table[i];
    std::vector<std::int64_t> lengths(here.shape.lengths().begin(), here.shape.lengths().end());
    if (count > 0) lengths[0] = count;
    here.shape = Shape(std::span<const std::int64_t>(lengths));
    const auto device = make_cpu_device();
    const TableMemory memory(*device, Dtype::f64, {here});
    const auto number = static_cast<std::uint32_t>(i);
    initialize(table[i], seed, number, alike, first, memory.tensors[0]);
    return {table[i], number, to_doubles(memory.tensors[0])};
  }
  fail(ExitCode::other, {"no parameter '" + name + "'", "the test is wrong", ""});
}

double mean(const std::vector<double>& x) {
  double sum = 0;
  for (const double v : x) sum += v;
  return sum / static_cast<double>(x.size());
}
double deviation(const std::vector<double>& x) {
  double sum = 0;
  for (const double v : x) sum += (v - mean(x)) * (v - mean(x));
  return std::sqrt(sum / static_cast<double>(x.size()));
}
double largest(const std::vector<double>& x) {
  double most = 0;
  for (const double v : x) most = std::max(most, std::abs(v));
  return most;
}

TEST(ParameterTable, HasTheOriginalsNamesAndShapes) {
  ModelConfig c = small_config();
  std::vector<std::string> described;
  for (const ParameterSpec& spec : parameter_table(c)) described.push_back(spec.name + " " + spec.shape.str());
  const std::set<std::string> have(described.begin(), described.end());
  for (const char* wanted :
       {"embedding/kernel [3, 4, 2, 8]", "cls [1, 1, 8]", "Encoder/posembed_input/pos_embedding [1, 5, 8]",
        "Encoder/encoderblock_0/SelfAttention/query/kernel [8, 2, 4]",
        "Encoder/encoderblock_0/SelfAttention/query/bias [2, 4]",
        "Encoder/encoderblock_0/SelfAttention/out/kernel [2, 4, 8]",
        "Encoder/encoderblock_0/Mlp/Dense_0/kernel [8, 12]", "Encoder/encoderblock_1/Moe/Mlp/Dense_0/kernel [4, 8, 12]",
        "Encoder/encoderblock_1/Moe/Mlp/Dense_1/bias [4, 8]", "Encoder/encoderblock_1/Moe/Router/dense/kernel [8, 4]",
        "head/kernel [8, 5]", "head/bias [5]"}) {
    EXPECT_TRUE(have.contains(wanted)) << wanted;
  }
  EXPECT_EQ(have.size(), described.size()) << "two parameters share a name";
}

TEST(Initialize, LecunNormalIsTruncatedAndHasTheRightDeviation) {
  const Initialised embedding = initialised(wide_config(), "embedding/kernel");  // fan_in 3 * 4 * 2
  EXPECT_NEAR(deviation(embedding.values), std::sqrt(1.0 / 24), 0.02 * std::sqrt(1.0 / 24));
  EXPECT_NEAR(mean(embedding.values), 0, 0.02);
  EXPECT_LE(largest(embedding.values), 2 * std::sqrt(1.0 / 24) / 0.87962566103423978);
  EXPECT_NEAR(deviation(initialised(wide_config(), "pre_logits/kernel").values), 0.125, 0.125 * 0.04);
}

TEST(Initialize, XavierUniformFillsItsInterval) {
  const double bound = std::sqrt(6.0 / (64 + 96));
  const Initialised mlp = initialised(wide_config(), "Encoder/encoderblock_0/Mlp/Dense_0/kernel");
  EXPECT_LE(largest(mlp.values), bound);
  EXPECT_GT(largest(mlp.values), 0.99 * bound);
  EXPECT_NEAR(deviation(mlp.values), bound / std::sqrt(3.0), 0.02 * bound);
  EXPECT_NEAR(mean(mlp.values), 0, 0.02 * bound);
  const double attention = std::sqrt(3.0 / 64);  // fans of the 2-D view, not of one head
  const Initialised query = initialised(wide_config(), "Encoder/encoderblock_0/SelfAttention/query/kernel");
  EXPECT_LE(largest(query.values), attention);
  EXPECT_GT(largest(query.values), 0.99 * attention);
}

TEST(Initialize, NormalAndConstantTensorsAreWhatTheyAre) {
  EXPECT_NEAR(deviation(initialised(wide_config(), "Encoder/posembed_input/pos_embedding").values), 0.02, 0.002);
  EXPECT_NEAR(deviation(initialised(wide_config(), "Encoder/encoderblock_0/Mlp/Dense_0/bias").values), 1e-6, 2e-7);
  EXPECT_EQ(largest(initialised(wide_config(), "head/kernel").values), 0);
  EXPECT_EQ(largest(initialised(wide_config(), "cls").values), 0);
  for (const double x : initialised(wide_config(), "head/bias").values) EXPECT_EQ(x, -2.5);
  for (const double x : initialised(wide_config(), "Encoder/encoder_norm/scale").values) EXPECT_EQ(x, 1);
}

constexpr char kExperts[] = "Encoder/encoderblock_1/Moe/Mlp/Dense_0/kernel";

TEST(Initialize, ExpertsAreEqualWhenAlikeAndAllDifferentWhenNot) {
  const std::vector<double> alike = initialised(wide_config(), kExperts, true).values;
  const std::vector<double> apart = initialised(wide_config(), kExperts, false).values;
  const auto each = static_cast<std::ptrdiff_t>(alike.size() / 4);
  for (std::ptrdiff_t e = 1; e < 4; ++e) {
    EXPECT_TRUE(std::equal(alike.begin(), alike.begin() + each, alike.begin() + e * each));
    for (std::ptrdiff_t f = 0; f < e; ++f) {
      EXPECT_FALSE(std::equal(apart.begin() + f * each, apart.begin() + (f + 1) * each, apart.begin() + e * each));
    }
  }
  EXPECT_TRUE(std::equal(alike.begin(), alike.begin() + each, apart.begin())) << "expert 0 is the same either way";
}

TEST(Initialize, AnExpertIsTheSameWhereverItLives) {
  for (const bool alike : {false, true}) {
    const std::vector<double> whole = initialised(wide_config(), kExperts, alike).values;
    const auto half = static_cast<std::ptrdiff_t>(whole.size() / 2);
    const std::vector<double> later = initialised(wide_config(), kExperts, alike, 1, 2, 2).values;
    EXPECT_TRUE(std::equal(later.begin(), later.end(), whole.begin() + half, whole.end()));
  }
}

TEST(Initialize, DependsOnTheSeedAndOnTheTensor) {
  const std::vector<double> one = initialised(wide_config(), kExperts).values;
  EXPECT_EQ(one, initialised(wide_config(), kExperts).values);
  EXPECT_NE(one, initialised(wide_config(), kExperts, false, 2).values);
  const std::vector<double> query =
      initialised(wide_config(), "Encoder/encoderblock_0/SelfAttention/query/kernel").values;
  EXPECT_NE(query, initialised(wide_config(), "Encoder/encoderblock_0/SelfAttention/key/kernel").values);
}

}  // namespace
}  // namespace vitrail::testing
