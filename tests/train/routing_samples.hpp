#pragma once
// A small model with three MoE blocks, evaluated on made-up images, with its routing written to a file.

#include "base/philox.hpp"
#include "train/evaluate.hpp"
#include "train/presets.hpp"
#include "train/routing_dump.hpp"

namespace vitrail::testing {

/// Leaves of four images are one group; slots are scarce.
inline RunConfig routing_config(std::int64_t ranks = 1, std::int64_t expert_parallel = 1,
                                std::int64_t leaves_per_pass = 1) {
  RunConfig config = preset("fmnist");
  config.model.width = 16;
  config.model.mlp_width = 16;
  config.model.heads = 2;
  config.model.blocks = 6;
  config.model.experts = 4;
  config.model.head_zero = false;
  config.model.router.group_images = 4;
  config.model.router.capacity.factor = 0.7;
  config.leaf_images = 4;
  config.expert_parallel = expert_parallel;
  config.leaves_per_pass = leaves_per_pass;
  config.batch = ranks * leaves_per_pass * config.leaf_images;
  resolve(config);
  return config;
}

/// Evaluates `images` images, of which `images_in_file` go to the file. Collective.
inline Metrics evaluate_and_dump(const RunConfig& config, Communicator& world, const std::filesystem::path& path,
                                 std::int64_t images, std::int64_t images_in_file, std::int64_t piece_bytes = 1 << 24) {
  const auto device = make_cpu_device();
  const auto ops = make_cpu_ops(1);
  const TrainState state(config, *device, *ops, world);
  const auto fill = [](std::int64_t first, std::int64_t count, Tensor raw_images, Tensor labels) {
    const std::int64_t each = raw_images.elements() / labels.elements();
    const Philox random(3, Purpose::test, 0);
    for (std::int64_t i = 0; i < count; ++i) {
      labels.as<std::int32_t>()[i] = static_cast<std::int32_t>((first + i) % 3);
      for (std::int64_t j = 0; j < each; ++j) {
        raw_images.as<std::uint8_t>()[i * each + j] =
            static_cast<std::uint8_t>(random.bits(static_cast<std::uint64_t>((first + i) * each + j)));
      }
    }
  };
  RoutingDump dump({.path = path,
                    .images = images_in_file,
                    .checkpoint = "runs/a/step-7",
                    .step = 7,
                    .data = "made-up",
                    .settings = "{}",
                    .piece_bytes = piece_bytes},
                   config.model, state.layout, world, *device, ops->real());
  Evaluator evaluator(config.model, state.layout, *device, *ops, 1, true);
  const auto add_pass = [&](std::int64_t first, const Activations& acts) { dump.add_pass(first, acts); };
  Metrics metrics = evaluator.run(state.params, state.ranks, Loss::softmax, images, fill, add_pass);
  EXPECT_FALSE(std::filesystem::exists(path)) << "a file that is not complete has the name of one that is";
  world.barrier();
  dump.finish();
  return metrics;
}

}  // namespace vitrail::testing
