#include <limits>

#include <gtest/gtest.h>

#include "apps/doctor_ranks.hpp"

namespace vitrail {
namespace {

TEST(DoctorRanks, OneRankExchangesWithItself) {
  const auto self = make_self_communicator();
  const ExchangeSeen seen = see_exchange(*self);
  EXPECT_GT(seen.large, 0);
  EXPECT_EQ(judge_exchange(seen, 1).health, Health::ok);
  EXPECT_EQ(see_clocks(*self).apart, 0);
}

TEST(DoctorRanks, SlowSmallMessagesAreAWarning) {
  EXPECT_EQ(judge_exchange({.barrier = 5e-6, .small = 1e-5, .large = 1e-3}, 4).health, Health::ok);
  EXPECT_EQ(judge_exchange({.barrier = 8e-3, .small = 1e-5, .large = 1e-3}, 4).health, Health::warn);
  EXPECT_EQ(judge_exchange({.barrier = 5e-6, .small = 8e-3, .large = 1e-3}, 4).health, Health::warn);
}

TEST(DoctorRanks, AWorldThatIsNotWhatTheLauncherStartedIsBad) {
  EXPECT_EQ(judge_world("MPI", {"Slurm", 4}, 4).health, Health::ok);
  EXPECT_EQ(judge_world("MPI", {"Slurm", 4}, 1).health, Health::bad);
  EXPECT_EQ(judge_world("MPI", {"mpirun", 4}, 2).health, Health::bad);
  EXPECT_EQ(judge_world("MPI", {}, 1).health, Health::ok);
}

TEST(DoctorRanks, ClocksFarApartAreAWarningUnlessTheDoubtIsAsLarge) {
  EXPECT_EQ(judge_clocks({.apart = 0.5, .doubt = 0.001}).health, Health::ok);
  EXPECT_EQ(judge_clocks({.apart = 3, .doubt = 0.001}).health, Health::warn);
  EXPECT_EQ(judge_clocks({.apart = 3, .doubt = 2.5}).health, Health::ok);
}

TEST(DoctorRanks, TheSlowestStartCounts) {
  EXPECT_EQ(judge_start({0.1, 1, 2}).health, Health::ok);
  EXPECT_EQ(judge_start({0.1, 60, 2}).health, Health::warn);
  EXPECT_EQ(judge_start({0.1, std::numeric_limits<double>::quiet_NaN()}).health, Health::ok);
}

TEST(DoctorRanks, NamesTheFirstRankThatHasSomethingElse) {
  const std::vector<std::string> hosts{"n1", "n1", "n2"};
  EXPECT_EQ(judge_alike("hdf5", "HDF5", {"1.10.8", "1.10.8", "1.10.8"}, hosts, "x").health, Health::ok);
  const Finding found = judge_alike("hdf5", "HDF5", {"1.10.8", "1.10.8", "1.14.0"}, hosts, "x");
  EXPECT_EQ(found.health, Health::bad);
  EXPECT_EQ(found.said, "HDF5 is 1.10.8 on rank 0 (n1) and 1.14.0 on rank 2 (n2)");
}

}  // namespace
}  // namespace vitrail
