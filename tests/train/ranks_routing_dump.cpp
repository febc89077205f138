#include <gtest/gtest.h>

#include "io/h5.hpp"
#include "tests/ranks_main.hpp"
#include "tests/train/checkpoint_samples.hpp"
#include "tests/train/routing_samples.hpp"

namespace vitrail {
namespace {

using test::world;

void expect_same_files(const std::filesystem::path& one, const std::filesystem::path& other) {
  const h5::File a = h5::File::open(one, ExitCode::other);
  const h5::File b = h5::File::open(other, ExitCode::other);
  ASSERT_EQ(a.datasets_below("/"), b.datasets_below("/"));
  for (const std::string& name : a.datasets_below("/")) {
    EXPECT_EQ(a.info(name).shape, b.info(name).shape) << name;
    EXPECT_EQ(a.read<double>(name), b.read<double>(name)) << name;
  }
  for (const h5::Child& child : a.children("/")) {
    if (!child.is_group) continue;
    EXPECT_EQ(a.read_real(child.name, "mean_gate_entropy"), b.read_real(child.name, "mean_gate_entropy"));
    EXPECT_EQ(a.read_real(child.name, "drop_rate"), b.read_real(child.name, "drop_rate"));
  }
}

TEST(RoutingDumpRanks, EveryLayoutWritesTheSameBits) {
  std::unique_ptr<testing::TemporaryFolder> folder;
  if (world().rank() == 0) folder = std::make_unique<testing::TemporaryFolder>();
  const std::filesystem::path root = world().all_gather_strings(folder ? folder->path().string() : "")[0];
  const std::int64_t ranks = world().size();
  constexpr std::int64_t images = 29;
  constexpr std::int64_t in_file = 22;  // some ranks have nothing to write in the end
  if (world().rank() == 0) {
    const auto self = make_self_communicator();
    testing::evaluate_and_dump(testing::routing_config(), *self, root / "alone.h5", images, in_file);
  }
  for (const auto& [expert_parallel, leaves] : {std::pair<std::int64_t, std::int64_t>{1, 1}, {2, 1}, {1, 2}, {4, 1}}) {
    if (ranks % expert_parallel != 0) continue;
    const std::filesystem::path file = root / text("ranks-", expert_parallel, "-", leaves, ".h5");
    const RunConfig config = testing::routing_config(ranks, expert_parallel, leaves);
    testing::evaluate_and_dump(config, world(), file, images, in_file, leaves == 2 ? 1 : 1 << 24);
    if (world().rank() == 0) expect_same_files(root / "alone.h5", file);
  }
  world().barrier();  // nobody may still be looking when rank 0 removes the folder
}

}  // namespace
}  // namespace vitrail
