// Going on from what other ranks have saved, and from what is left when something is damaged.
#include <cstdio>
#include <fstream>
#include <functional>

#include <gtest/gtest.h>

#include "base/philox.hpp"
#include "device/host_values.hpp"
#include "tests/ranks_main.hpp"
#include "tests/train/checkpoint_samples.hpp"
#include "train/presets.hpp"
#include "train/resume.hpp"
#include "train/state_checkpoint.hpp"

namespace vitrail {
namespace {

using testing::TemporaryFolder;

constexpr std::int64_t kRanks = 4;  // divides what every number of ranks in these tests divides

RunConfig small(std::int64_t expert_parallel) {
  RunConfig config = preset("fmnist");
  config.model.width = 16;
  config.model.mlp_width = 32;
  config.model.heads = 2;
  config.model.experts = kRanks;
  config.leaf_images = 8;
  config.batch = 8 * kRanks;
  config.average_decay = .5;
  config.expert_parallel = expert_parallel;
  resolve(config);
  return config;
}

/// A state on all ranks of a communicator, with numbers that depend on the tensor, the element and the step alone.
struct RankState {
  explicit RankState(Communicator& world, std::unique_ptr<Ops> ops = make_cpu_ops(1))
      : ops_(std::move(ops)), state(small(world.size()), *device_, *ops_, world) {}

  void fill(std::int64_t step) {
    state.step = step;
    for (const CheckpointPiece& piece : checkpoint_pieces(state)) {
      const Philox random(static_cast<std::uint64_t>(step), Purpose::test,
                          static_cast<std::uint32_t>(std::hash<std::string>()(piece.tensor)));
      std::vector<double> values;
      for (std::int64_t i = 0; i < piece.data.elements(); ++i) {
        values.push_back(static_cast<float>(random.normal(static_cast<std::uint64_t>(piece.first + i))));
      }
      from_doubles(values, *device_, Tensor(const_cast<void*>(piece.data.data), piece.data.shape, piece.data.dtype));
    }
  }
  void save(const std::filesystem::path& run_dir, int writers = 0) {
    save_checkpoint(state.ranks.world, run_dir, {state.step, Json::object(), Json::object()}, checkpoint_pieces(state),
                    {.keep_last = 0, .writers = writers});
  }

 private:
  std::unique_ptr<Device> device_ = make_cpu_device();
  std::unique_ptr<Ops> ops_;

 public:
  TrainState state;
};

class Resume : public ::testing::Test {
 protected:
  void SetUp() override {
    if (world_.size() == 3) GTEST_SKIP() << "a batch of powers of two";
    if (world_.rank() == 0) folder_ = std::make_unique<TemporaryFolder>();
    run_dir_ = world_.all_gather_strings(folder_ ? folder_->path().string() : "")[0];
    run_.emplace(world_);
  }
  // No rank may still be looking when rank 0 removes the folder.
  void TearDown() override { world_.barrier(); }
  ~Resume() override { std::fclose(said_); }

  [[nodiscard]] std::filesystem::path step_dir(std::int64_t step) const {
    return run_dir_ / "checkpoints" / text("step-0000000", step);
  }
  /// Saves steps 1 and 2 of the run.
  void save_two() {
    for (const std::int64_t step : {1, 2}) {
      run_->fill(step);
      run_->save(run_dir_);
    }
    world_.barrier();
  }
  /// Rank 0 changes a bit of the first tensor's first element in the part of rank `part`: of optimizer state, which
  /// that rank alone reads. Says where.
  StoredPlace damage(std::int64_t step, int part) {
    const CheckpointReader reader(step_dir(step));
    StoredPlace found;
    for (const std::string& name : reader.tensors()) {
      for (const StoredPlace& place : reader.places(name)) {
        if (place.file != text("part-0000", part, "-of-0000", world_.size(), ".h5") || !found.file.empty()) continue;
        found = place;
        damaged_ = name;
      }
    }
    world_.barrier();
    if (world_.rank() == 0) {
      std::fstream file(reader.path() / found.file, std::ios::in | std::ios::out | std::ios::binary);
      file.seekg(found.offset);
      const int byte = file.get();
      file.seekp(found.offset);
      file.put(static_cast<char>(byte ^ 1));
    }
    world_.barrier();
    return found;
  }
  std::filesystem::path restore(RankState& state,
                                const std::function<void(const CheckpointReader&)>& expect_fits = {}) {
    const Log log("test", world_.rank(), world_.size(), said_, said_);
    return restore_newest(
        state.state, run_dir_, log, expect_fits ? expect_fits : [](const CheckpointReader&) {});
  }
  [[nodiscard]] std::string said() {
    std::string all(static_cast<std::size_t>(std::ftell(said_)), ' ');
    std::rewind(said_);
    EXPECT_EQ(std::fread(all.data(), 1, all.size(), said_), all.size());
    return all;
  }
  /// Does `state` hold the numbers of this step, in all tensors?
  [[nodiscard]] bool holds(RankState& state, std::int64_t step) {
    state.save(run_dir_ / "again");
    RankState wanted(world_);
    wanted.fill(step);
    wanted.save(run_dir_ / "wanted");
    const bool same = CheckpointReader(run_dir_ / "again").digest() == CheckpointReader(run_dir_ / "wanted").digest();
    world_.barrier();
    return same;
  }

  Communicator& world_ = test::world();
  std::unique_ptr<TemporaryFolder> folder_;
  std::filesystem::path run_dir_;
  std::optional<RankState> run_;
  std::string damaged_;
  std::FILE* said_ = std::tmpfile();
};

TEST_F(Resume, RestoresTheNewest) {
  save_two();
  RankState other(world_);
  EXPECT_EQ(restore(other), step_dir(2));
  EXPECT_EQ(other.state.step, 2);
  EXPECT_TRUE(holds(other, 2));
  EXPECT_FALSE(holds(other, 1));
}

TEST_F(Resume, WhatOneRankSavedAllRestoreAndSaveAgain) {
  const std::unique_ptr<Communicator> self = make_self_communicator();
  if (world_.rank() == 0) {
    RankState alone(*self);
    alone.fill(5);
    alone.save(run_dir_);
  }
  world_.barrier();
  RankState all(world_);
  EXPECT_EQ(restore(all), step_dir(5));
  for (const int writers : {0, 1}) {
    all.save(run_dir_ / "all", writers);
    EXPECT_EQ(CheckpointReader(run_dir_ / "all").digest(), CheckpointReader(run_dir_).digest());
    world_.barrier();
  }
  // And back: each rank restores all of it alone.
  RankState again(*self);
  const Log log("test", 0, 1, said_, said_);
  restore_newest(again.state, run_dir_ / "all", log, [](const CheckpointReader&) {});
  again.save(run_dir_ / text("alone-", world_.rank()));
  EXPECT_EQ(CheckpointReader(run_dir_ / text("alone-", world_.rank())).digest(), CheckpointReader(run_dir_).digest());
}

TEST_F(Resume, AnotherBackEndRestoresTheSameNumbersAndBack) {
  save_two();
  RankState reference(world_, make_reference_ops());
  restore(reference);
  const auto& of_state = reference.state.dense->optimizer.state();
  EXPECT_EQ(reference.state.parameters.front().dtype, Dtype::f64);
  EXPECT_EQ(of_state.front().data.dtype, Dtype::f64);
  reference.state.step = 9;
  reference.save(run_dir_);
  RankState back(world_);
  EXPECT_EQ(restore(back), step_dir(9));
  back.state.step = 2;
  EXPECT_TRUE(holds(back, 2));
}

TEST_F(Resume, WhatOneRankFindsDamagedNoRankRestores) {
  for (int part = 0; part < world_.size(); ++part) {
    save_two();
    const StoredPlace place = damage(2, part);
    RankState other(world_);
    EXPECT_EQ(restore(other), step_dir(1)) << part;
    EXPECT_EQ(other.state.step, 1);
    EXPECT_TRUE(holds(other, 1));
    if (world_.rank() != 0) continue;
    const std::string warning = said();
    for (const std::string& words :
         {std::string("test: warning: checkpoint step-00000002: rank "), "tensor '" + damaged_ + "' is damaged",
          place.file, text("at offset ", place.offset), std::string("Trying the one before")}) {
      EXPECT_NE(warning.find(words), std::string::npos) << words << " is not in: " << warning;
    }
  }
}

TEST_F(Resume, AnUnreadableManifestAndAMissingFileAreDamage) {
  for (const char* lost : {"manifest.json", "part-00000"}) {
    save_two();
    if (world_.rank() == 0) {
      const std::string name =
          lost == std::string("manifest.json") ? lost : text(lost, "-of-0000", world_.size(), ".h5");
      const std::string content = testing::content_of(step_dir(2) / name);
      testing::replace_content(step_dir(2) / name, content.substr(0, content.size() / 2));
    }
    world_.barrier();
    RankState other(world_);
    EXPECT_EQ(restore(other), step_dir(1)) << lost;
    world_.barrier();
  }
}

TEST_F(Resume, WithoutAnIntactOneAllReasonsAreTold) {
  save_two();
  damage(1, 0);
  const std::string in_first = damaged_;
  damage(2, world_.size() - 1);
  RankState other(world_);
  const std::string why = testing::failure_of([&] { restore(other); });
  for (const std::string& words :
       {"no checkpoint in " + (run_dir_ / "checkpoints").string() + " is intact", std::string("step-00000002: rank "),
        "tensor '" + damaged_ + "'", std::string("step-00000001: rank "), "tensor '" + in_first + "'"}) {
    EXPECT_NE(why.find(words), std::string::npos) << words << " is not in: " << why;
  }
}

TEST_F(Resume, ARunThatDoesNotFitIsNoDamage) {
  save_two();
  RankState other(world_);
  int asked = 0;
  try {
    restore(other, [&](const CheckpointReader& reader) {
      ++asked;
      fail(ExitCode::usage, {reader.path().string(), "other settings", ""});
    });
    FAIL() << "it went on";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::usage);
  }
  EXPECT_EQ(asked, 1);
  EXPECT_EQ(said(), "");
}

TEST_F(Resume, AModelThatDoesNotFitIsNoDamage) {
  const testing::Sample sample;
  if (world_.rank() == 0) {
    testing::save(run_dir_, 1, sample);
    testing::save(run_dir_, 2, sample);
  }
  world_.barrier();
  RankState other(world_);
  const std::string why = testing::failure_of([&] { restore(other); });
  EXPECT_NE(why.find("step-00000002 has no tensor parameters/"), std::string::npos) << why;
  EXPECT_EQ(said(), "");
}

}  // namespace
}  // namespace vitrail
