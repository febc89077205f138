#include <cmath>
#include <map>
#include <numeric>

#include <gtest/gtest.h>

#include "io/h5.hpp"
#include "tests/train/checkpoint_samples.hpp"
#include "tests/train/routing_samples.hpp"

namespace vitrail {
namespace {

using Counts = std::vector<std::int64_t>;

/// What a file says of one block.
struct Block {
  Block(const h5::File& file, std::int64_t number)
      : group(text("encoderblock_", number)),
        gates(file.read<float>(group + "/gates")),
        gate(file.read<float>(group + "/gate")),
        priority(file.read<float>(group + "/priority")),
        selected(file.read<std::int64_t>(group + "/selected")),
        slot(file.read<std::int64_t>(group + "/slot")),
        kept(file.read<std::int64_t>(group + "/kept")) {}
  std::string group;
  std::vector<float> gates, gate, priority;
  Counts selected, slot, kept;
};

class RoutingDumps : public ::testing::Test {
 protected:
  [[nodiscard]] std::filesystem::path path(const std::string& name) const { return folder_.path() / name; }
  h5::File dumped(std::int64_t images, std::int64_t in_file) {
    const std::filesystem::path file = path(text(images, "-", in_file, ".h5"));
    metrics_ = testing::evaluate_and_dump(config_, *world_, file, images, in_file);
    return h5::File::open(file, ExitCode::other);
  }

  testing::TemporaryFolder folder_;
  std::unique_ptr<Communicator> world_ = make_self_communicator();
  RunConfig config_ = testing::routing_config();
  ModelConfig& model_ = config_.model;
  Metrics metrics_;
};

constexpr std::int64_t kImages = 13;  // three full passes, and one of an image and padding

TEST_F(RoutingDumps, SayWhatTheyHold) {
  const h5::File file = dumped(kImages, kImages);
  EXPECT_EQ(file.read_string("/", "format"), "vitrail-routing-1");
  EXPECT_EQ(file.read_string("/", "checkpoint"), "runs/a/step-7");
  EXPECT_EQ(file.read_integer("/", "step"), 7);
  EXPECT_EQ(file.read_integer("/", "images"), kImages);
  EXPECT_EQ(file.read_integer("/", "tokens"), 50);
  EXPECT_EQ(file.read_integer("/", "slots"), model_.slots());
  EXPECT_EQ(file.info("labels").shape, (h5::Shape{kImages}));
  EXPECT_EQ(file.info("encoderblock_3/gates").shape, (h5::Shape{kImages, 50, 4}));
  EXPECT_EQ(file.info("encoderblock_5/slot").shape, (h5::Shape{kImages, 50, 2}));
  EXPECT_EQ(file.info("encoderblock_1/kept").dtype, Dtype::u8);
  EXPECT_FALSE(file.has("encoderblock_0"));
}

TEST_F(RoutingDumps, ChoicesAreTheLargestGates) {
  const h5::File file = dumped(kImages, kImages);
  for (const std::int64_t number : model_.moe_blocks) {
    const Block block(file, number);
    for (std::size_t token = 0; token < block.priority.size(); ++token) {
      std::vector<float> gates(&block.gates[4 * token], &block.gates[4 * token] + 4);
      EXPECT_NEAR(std::accumulate(gates.begin(), gates.end(), 0.0), 1, 1e-6);
      EXPECT_EQ(block.gate[2 * token], gates[static_cast<std::size_t>(block.selected[2 * token])]);
      EXPECT_EQ(block.gate[2 * token + 1], gates[static_cast<std::size_t>(block.selected[2 * token + 1])]);
      std::sort(gates.begin(), gates.end(), std::greater<>());
      EXPECT_EQ(block.gate[2 * token], gates[0]);
      EXPECT_EQ(block.gate[2 * token + 1], gates[1]);
      EXPECT_EQ(block.priority[token], gates[0]);
    }
  }
}

TEST_F(RoutingDumps, SlotsAreThoseOfGroupsOfImages) {
  const h5::File file = dumped(kImages, kImages);
  const Block block(file, 3);
  // The algorithm once more, over the un-grouped tokens: groups are four images, of 50 tokens each.
  Counts wanted(block.slot.size());
  for (std::int64_t first = 0; first < kImages * 50; first += 200) {
    Counts taken(4);
    for (std::int64_t j = 0; j < 2; ++j) {
      for (std::int64_t token = first; token < std::min(first + 200, kImages * 50); ++token) {
        const auto i = static_cast<std::size_t>(2 * token + j);
        wanted[i] = taken[static_cast<std::size_t>(block.selected[i])]++;
      }
    }
  }
  EXPECT_EQ(block.slot, wanted);
}

TEST_F(RoutingDumps, SumsAgreeWithTheirTokensAndWithTheMetrics) {
  const h5::File file = dumped(kImages, kImages);
  const auto labels = file.read<std::int64_t>("labels");
  const auto predictions = file.read<std::int64_t>("predictions");
  std::int64_t correct = 0;
  for (std::size_t i = 0; i < labels.size(); ++i) {
    EXPECT_EQ(labels[i], static_cast<std::int64_t>(i) % 3);
    correct += predictions[i] == labels[i] ? 1 : 0;
  }
  EXPECT_EQ(correct, metrics_.correct);
  for (const MoeMetrics& metrics : metrics_.moe) {
    const Block block(file, metrics.block);
    Counts assigned(4), kept(4), by_class(40), rank_assigned(2), rank_kept(2);
    for (std::size_t i = 0; i < block.slot.size(); ++i) {
      const auto expert = static_cast<std::size_t>(block.selected[i]);
      EXPECT_EQ(block.kept[i], block.slot[i] < model_.slots() ? 1 : 0);
      ++assigned[expert];
      kept[expert] += block.kept[i];
      ++rank_assigned[i % 2];
      rank_kept[i % 2] += block.kept[i];
      ++by_class[10 * expert + static_cast<std::size_t>(labels[i / 100])];
    }
    EXPECT_EQ(assigned, metrics.assigned);
    EXPECT_EQ(kept, metrics.kept);
    EXPECT_EQ(file.read<std::int64_t>(block.group + "/assigned_by_expert"), assigned);
    EXPECT_EQ(file.read<std::int64_t>(block.group + "/kept_by_expert"), kept);
    EXPECT_EQ(file.read<std::int64_t>(block.group + "/experts_by_class"), by_class);
    EXPECT_EQ(file.read_real(block.group, "drop_rate"), metrics.drop_rate());
    const auto by_rank = file.read<double>(block.group + "/drop_rate_by_rank");
    const auto by_expert = file.read<double>(block.group + "/drop_rate_by_expert");
    for (std::size_t j = 0; j < 2; ++j)
      EXPECT_DOUBLE_EQ(by_rank[j], 1 - static_cast<double>(rank_kept[j]) / static_cast<double>(rank_assigned[j]));
    for (std::size_t e = 0; e < 4; ++e)
      EXPECT_DOUBLE_EQ(by_expert[e], 1 - static_cast<double>(kept[e]) / static_cast<double>(assigned[e]));
    EXPECT_LT(by_rank[0], by_rank[1]);  // second choices come last
    double entropy = 0;
    for (const float g : block.gates) entropy -= static_cast<double>(g) * std::log(static_cast<double>(g));
    const double mean = file.read_real(block.group, "mean_gate_entropy");
    EXPECT_NEAR(mean, entropy / static_cast<double>(kImages * 50), 1e-12);
    EXPECT_LE(mean, std::log(4.0));
  }
}

TEST_F(RoutingDumps, TheFirstImagesAreRoutedAsInTheWhole) {
  const h5::File all = dumped(kImages, kImages);
  const h5::File five = dumped(kImages, 5);
  EXPECT_EQ(five.read<std::int64_t>("labels").size(), 5U);
  for (const std::int64_t number : model_.moe_blocks) {
    Block whole(all, number);
    const Block part(five, number);
    whole.slot.resize(part.slot.size());
    whole.gates.resize(part.gates.size());
    EXPECT_EQ(part.slot, whole.slot);
    EXPECT_EQ(part.gates, whole.gates);
    const auto assigned = five.read<std::int64_t>(part.group + "/assigned_by_expert");
    EXPECT_EQ(std::accumulate(assigned.begin(), assigned.end(), std::int64_t{0}), 5 * 50 * 2);
  }
}

TEST_F(RoutingDumps, SmallPiecesMakeTheSameFile) {
  const h5::File file = dumped(kImages, kImages);
  testing::evaluate_and_dump(config_, *world_, path("small.h5"), kImages, kImages, 1);
  const h5::File small = h5::File::open(path("small.h5"), ExitCode::other);
  for (const std::string& name : file.datasets_below("/"))
    EXPECT_EQ(file.read<double>(name), small.read<double>(name)) << name;
}

TEST_F(RoutingDumps, WhatAnExpertDoesNotChooseIsNotDropped) {
  model_.router.kind = RouterKind::experts_choice;
  model_.router.selected = model_.experts;
  model_.router.capacity = {.factor = {}, .slots = 20};
  const auto device = make_cpu_device();
  const PassShape shape{.leaves = 1, .leaf_images = 4, .backward = false, .keep_routing = true};
  Arena measured("test");
  (void)lay_out_activations(measured, *device, Dtype::f32, model_, shape);
  Arena arena("test", *device, measured.bytes());
  Activations acts = lay_out_activations(arena, *device, Dtype::f32, model_, shape);
  for (const std::int64_t number : model_.moe_blocks) {
    MoeActivations& moe = acts.blocks[static_cast<std::size_t>(number)].moe;
    std::fill_n(moe.gates_clean.as<float>(), moe.gates_clean.elements(), 0.25F);
    std::fill_n(moe.gates.as<float>(), moe.gates.elements(), 0.25F);
    if (moe.gate) std::fill_n(moe.gate.as<float>(), moe.gate.elements(), 0.25F);
    for (std::int64_t i = 0; i < moe.slot.elements(); ++i) {
      moe.selected.as<std::int32_t>()[i] = static_cast<std::int32_t>(i % 4);
      moe.slot.as<std::int32_t>()[i] = static_cast<std::int32_t>(i / 4 < 20 ? i / 4 : -1);  // the first 20 of 200
    }
  }
  RoutingDump dump({.path = path("choice.h5"), .images = 4, .checkpoint = "", .data = "", .settings = ""}, model_,
                   {.batch = 4, .leaf_images = 4}, *world_, *device, Dtype::f32);
  dump.add_pass(0, acts);
  dump.finish();
  const h5::File file = h5::File::open(path("choice.h5"), ExitCode::other);
  EXPECT_EQ(file.read_integer("/", "choices"), 4);
  EXPECT_EQ(file.read<std::int64_t>("encoderblock_1/assigned_by_expert"), (Counts{20, 20, 20, 20}));
  EXPECT_EQ(file.read<std::int64_t>("encoderblock_1/kept_by_expert"), (Counts{20, 20, 20, 20}));
  EXPECT_EQ(file.read_real("encoderblock_1", "drop_rate"), 0);
  const Block block(file, 1);
  EXPECT_EQ(std::accumulate(block.kept.begin(), block.kept.end(), std::int64_t{0}), 80);
  EXPECT_NEAR(file.read_real("encoderblock_1", "mean_gate_entropy"), std::log(4.0), 1e-12);
}

TEST_F(RoutingDumps, OfRoutersWithoutChoicesAreRefused) {
  model_.router.kind = RouterKind::soft;
  EXPECT_THROW(RoutingDump({.path = path("soft.h5"), .checkpoint = "", .data = "", .settings = ""}, model_,
                           {.batch = 4, .leaf_images = 4}, *world_, *make_cpu_device(), Dtype::f32),
               Error);
}

}  // namespace
}  // namespace vitrail
