// What a checkpoint takes on disk: little more than its tensors.

#include <gtest/gtest.h>

#include "model/params.hpp"
#include "tests/train/checkpoint_samples.hpp"
#include "train/checkpoint_stream.hpp"
#include "train/presets.hpp"

namespace vitrail {
namespace {

/// A V-MoE of 12 blocks whose checkpoint hardly exceeds 100 MB: many tensors and few bytes.
std::vector<ParameterSpec> tiny_v_moe() {
  RunConfig config = preset("v-moe-s32-every2");
  config.model.blocks = 12;
  config.model.width = 192;
  config.model.mlp_width = 384;
  config.model.classes = 10;
  config.model.heads = 3;
  config.model.experts = 8;
  resolve(config);
  return parameter_table(config.model);
}

constexpr const char* kKinds[] = {"parameters/", "adam_m/", "adam_v/"};

std::int64_t bytes_on_disk(const std::filesystem::path& folder) {
  std::int64_t bytes = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    bytes += static_cast<std::int64_t>(entry.file_size());
  }
  return bytes;
}

void expect_little_more(std::int64_t bytes, const std::filesystem::path& folder) {
  const double ratio = static_cast<double>(bytes_on_disk(folder)) / static_cast<double>(bytes);
  std::printf("  %.1f MB of tensors, %.5f times that on disk\n", static_cast<double>(bytes) * 1e-6, ratio);
  EXPECT_GT(bytes, 100'000'000);
  EXPECT_LT(bytes, 130'000'000);
  EXPECT_LE(ratio, 1.01);
}

TEST(CheckpointSize, IsAtMostAHundredthMoreThanTheTensors) {
  const std::vector<ParameterSpec> table = tiny_v_moe();
  std::int64_t largest = 0;
  for (const ParameterSpec& spec : table) largest = std::max(largest, spec.shape.elements());
  const std::vector<float> values(static_cast<std::size_t>(largest), 1.5F);
  std::vector<CheckpointPiece> pieces;
  for (const char* kind : kKinds) {
    for (const ParameterSpec& spec : table) {
      // As two owners' slices would cut it, now and then.
      const std::int64_t all = spec.shape.elements(), half = pieces.size() % 16 == 0 ? all / 2 : all;
      pieces.push_back({kind + spec.name, spec.shape, 0, ConstTensor(values.data(), {half}, Dtype::f32)});
      if (half < all)
        pieces.push_back({kind + spec.name, spec.shape, half, ConstTensor(values.data(), {all - half}, Dtype::f32)});
    }
  }
  const testing::TemporaryFolder folder;
  const SaveReport report =
      save_checkpoint(*make_self_communicator(), folder.path(), testing::sample_info(1), pieces, {});
  expect_little_more(report.bytes, *latest_checkpoint(folder.path()));
}

TEST(CheckpointSize, OfAStreamInSeveralFilesToo) {
  const std::vector<ParameterSpec> table = tiny_v_moe();
  const testing::TemporaryFolder folder;
  CheckpointStream stream(folder.path(), testing::sample_info(1), 8);
  std::int64_t bytes = 0;
  for (const char* kind : kKinds) {
    for (const ParameterSpec& spec : table) {
      const std::vector<float> values(static_cast<std::size_t>(spec.shape.elements()), 1.5F);
      stream.begin(kind + spec.name, spec.shape, Dtype::f32);
      stream.write(ConstTensor(values.data(), {spec.shape.elements()}, Dtype::f32));
      bytes += spec.shape.elements() * 4;
    }
  }
  expect_little_more(bytes, stream.finish());
}

}  // namespace
}  // namespace vitrail
