// Training states as checkpoints: what one run saves another of the same settings finds again.

#include <cstring>

#include <gtest/gtest.h>

#include "base/philox.hpp"
#include "tests/train/checkpoint_samples.hpp"
#include "train/presets.hpp"
#include "train/state_checkpoint.hpp"

namespace vitrail::testing {
namespace {

RunConfig small(const std::string& optimizer) {
  RunConfig config = preset("fmnist");
  config.model.width = 16;
  config.model.mlp_width = 32;
  config.model.heads = 2;
  config.model.experts = 4;
  config.batch = config.leaf_images = 8;
  config.optimizer = optimizer;
  if (optimizer == "adafactor") config.factored_above = 8;
  config.average_decay = .5;
  resolve(config);
  return config;
}

/// A state on one rank.
struct OneRank {
  explicit OneRank(const RunConfig& config) : state(config, *device, *ops, *world) {}
  std::unique_ptr<Device> device = make_cpu_device();
  std::unique_ptr<Ops> ops = make_cpu_ops(1);
  std::unique_ptr<Communicator> world = make_self_communicator();
  TrainState state;

  /// Other numbers everywhere.
  void fill() {
    std::uint32_t stream = 0;
    for (const CheckpointPiece& piece : checkpoint_pieces(state)) {
      const Philox random(11, Purpose::test, 0, stream++);
      auto* const values = static_cast<float*>(const_cast<void*>(piece.data.data));
      for (std::int64_t i = 0; i < piece.data.elements(); ++i)
        values[i] = static_cast<float>(random.normal(static_cast<std::uint64_t>(i)));
    }
    state.step = 3;
  }
  void save(const std::filesystem::path& run_dir) {
    save_checkpoint(*world, run_dir, {state.step, Json::object(), Json::object()}, checkpoint_pieces(state), {});
  }
};

bool same_pieces(const TrainState& a, const TrainState& b) {
  const std::vector<CheckpointPiece> of_a = checkpoint_pieces(a), of_b = checkpoint_pieces(b);
  if (of_a.size() != of_b.size()) return false;
  for (std::size_t i = 0; i < of_a.size(); ++i) {
    if (of_a[i].tensor != of_b[i].tensor || of_a[i].data.bytes() != of_b[i].data.bytes()) return false;
    if (std::memcmp(of_a[i].data.data, of_b[i].data.data, static_cast<std::size_t>(of_a[i].data.bytes())) != 0)
      return false;
  }
  return true;
}

TEST(StateCheckpoint, EveryOptimizerFindsAllItsStateAgain) {
  for (const char* optimizer : {"adamw", "sgd", "adafactor"}) {
    const TemporaryFolder folder;
    OneRank written(small(optimizer));
    written.fill();
    written.save(folder.path());
    OneRank read(small(optimizer));
    EXPECT_FALSE(same_pieces(written.state, read.state)) << optimizer;
    restore(read.state, CheckpointReader(folder.path()));
    EXPECT_TRUE(same_pieces(written.state, read.state)) << optimizer;
    EXPECT_EQ(read.state.step, 3);
  }
}

TEST(StateCheckpoint, AFreshAverageIsTheParameters) {
  const OneRank fresh(small("sgd"));
  std::int64_t averaged = 0;
  const std::vector<CheckpointPiece> pieces = checkpoint_pieces(fresh.state);
  for (const CheckpointPiece& piece : pieces) {
    if (!piece.tensor.starts_with("average/")) continue;
    for (const CheckpointPiece& other : pieces) {
      if (other.tensor != "parameters/" + piece.tensor.substr(8)) continue;
      averaged += piece.data.elements();
      EXPECT_EQ(std::memcmp(piece.data.data, other.data.data, static_cast<std::size_t>(piece.data.bytes())), 0);
    }
  }
  EXPECT_EQ(averaged, parameter_count(fresh.state.table));
}

TEST(StateCheckpoint, ACheckpointOfAnotherOptimizerIsRefusedByName) {
  const TemporaryFolder folder;
  OneRank written(small("adafactor"));
  written.save(folder.path());
  OneRank read(small("sgd"));
  try {
    restore(read.state, CheckpointReader(folder.path()));
    FAIL() << "a momentum from nowhere";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::checkpoint);
    const std::string said = error.what();
    EXPECT_NE(said.find("has no tensor sgd_momentum/"), std::string::npos) << said;
    EXPECT_NE(said.find("adafactor_momentum, adafactor_over_x, adafactor_over_y, adafactor_v, average"),
              std::string::npos)
        << said;
  }
}

}  // namespace
}  // namespace vitrail::testing
