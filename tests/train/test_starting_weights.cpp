#include <gtest/gtest.h>

#include "device/host_values.hpp"
#include "tests/convert/memory_tensors.hpp"
#include "tests/convert/model_samples.hpp"
#include "tests/model/small_model.hpp"
#include "train/starting_weights.hpp"

namespace vitrail {
namespace {

/// Everything at once, as train/state and vitrail-train do it.
std::vector<std::vector<double>> whole(const std::vector<ParameterSpec>& table, const InitialWeights& weights,
                                       std::uint64_t seed, bool alike) {
  const std::unique_ptr<Device> device = make_cpu_device();
  const auto ops = make_cpu_ops(2);
  const testing::TableMemory memory(*device, Dtype::f32, table);
  for (std::size_t i = 0; i < table.size(); ++i) {
    initialize(*ops, table[i], seed, static_cast<std::uint32_t>(i), alike, 0, memory.tensors[i]);
  }
  weights.load(*device, 0, memory.tensors);
  std::vector<std::vector<double>> values;
  for (const Tensor& tensor : memory.tensors) values.push_back(to_doubles(tensor));
  return values;
}

TEST(StartingWeights, AreThoseOfANewRunInStretchesOfAnySize) {
  testing::MemorySource dense;
  add_model(dense, testing::vit_sample());
  ModelConfig config = testing::sparse_sample();
  config.image_height = config.image_width = 40;
  config.classes = 3;
  const std::vector<ParameterSpec> table = parameter_table(config);
  const InitialWeights weights(table, dense, "dense", false);
  EXPECT_TRUE(weights.upcycled());
  const std::vector<std::vector<double>> expected = whole(table, weights, 5, true);
  StartingWeights starting(table, weights, 5, true);
  for (const std::int64_t stretch : {7, 100, 1 << 20}) {
    for (std::size_t i = 0; i < table.size(); ++i) {
      const std::vector<float> values = testing::read_values(starting, starting.tensors()[i], stretch);
      EXPECT_EQ(std::vector<double>(values.begin(), values.end()), expected[i]) << table[i].name;
    }
  }
}

}  // namespace
}  // namespace vitrail
