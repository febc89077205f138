// main of the tests that run as MPI ranks: every rank runs every test; rank 0 prints; one failing rank fails the run.
#include "ranks_main.hpp"

#include <gtest/gtest.h>

#include "comm/mpi/mpi.hpp"

namespace vitrail::test {
namespace {
Communicator* world_ = nullptr;
}
Communicator& world() { return *world_; }
}  // namespace vitrail::test

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  return vitrail::run_ranks(argc, argv, "ranks-test", [](vitrail::MpiSession& session) {
    const auto world = session.world();
    vitrail::test::world_ = world.get();
    if (world->rank() != 0) {
      auto& listeners = ::testing::UnitTest::GetInstance()->listeners();
      delete listeners.Release(listeners.default_result_printer());
    }
    std::int64_t failed = RUN_ALL_TESTS();
    world->all_max({&failed, 1});
    return static_cast<int>(failed);
  });
}
