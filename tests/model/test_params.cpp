// The table of parameters, and what their initial values depend on; test_initial_values.cpp says what they are. [V-MoE]

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
    initialize(*make_reference_ops(), table[i], seed, number, alike, first, memory.tensors[0]);
    return {table[i], number, to_doubles(memory.tensors[0])};
  }
  fail(ExitCode::other, {"no parameter '" + name + "'", "the test is wrong", ""});
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

constexpr char kExperts[] = "Encoder/encoderblock_1/Moe/Mlp/Dense_0/kernel";

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
