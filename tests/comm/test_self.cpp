#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "comm/communicator.hpp"
#include "tests/comm/patterns.hpp"

namespace vitrail::test {
namespace {

TEST(SelfCommunicator, IsRankZeroOfOne) {
  const auto self = make_self_communicator();
  EXPECT_EQ(self->rank(), 0);
  EXPECT_EQ(self->size(), 1);
  self->barrier();
}

TEST(SelfCommunicator, CopiesInAllGatherAndAllToAll) {
  const auto self = make_self_communicator();
  for (const Dtype dtype : kDtypes) {
    for (const std::int64_t elements : kSizes) {
      Block from(dtype, elements);
      Block gathered(dtype, elements);
      Block exchanged(dtype, elements);
      from.fill(0, 1, 3, 4);
      self->all_gather(from.tensor(), gathered.tensor());
      self->all_to_all(from.tensor(), exchanged.tensor());
      EXPECT_TRUE(gathered.holds(0, 1, 3, 4)) << name_of(dtype) << " x " << elements;
      EXPECT_TRUE(exchanged.holds(0, 1, 3, 4)) << name_of(dtype) << " x " << elements;
    }
  }
}

TEST(SelfCommunicator, LeavesBroadcastAndReducedValuesAsTheyAre) {
  const auto self = make_self_communicator();
  Block block(Dtype::f32, 9);
  block.fill(0, 1, 1, 2);
  self->broadcast(block.tensor(), 0);
  self->all_gather(block.tensor(), block.tensor());
  EXPECT_TRUE(block.holds(0, 1, 1, 2));
  std::vector<std::int64_t> values{5, -7};
  self->all_min(values);
  self->all_max(values);
  self->all_sum(values);
  EXPECT_EQ(values, (std::vector<std::int64_t>{5, -7}));
}

TEST(SelfCommunicator, DeliversAnExchangeOnlyWhenItIsFinished) {
  const auto self = make_self_communicator();
  Block from(Dtype::i64, 10);
  Block to(Dtype::i64, 10);
  from.fill(0, 1, 0, 0);
  self->start_all_to_all(from.tensor(), to.tensor());
  EXPECT_FALSE(to.holds(0, 1, 0, 0));
  self->finish_all_to_all();
  EXPECT_TRUE(to.holds(0, 1, 0, 0));
}

TEST(SelfCommunicator, RefusesWhatManyRanksWouldRefuse) {
  const auto self = make_self_communicator();
  Block block(Dtype::f32, 12);
  Block other(Dtype::i32, 12);
  Block third(Dtype::f32, 12);
  EXPECT_THROW(self->broadcast(block.tensor(), 1), Error);
  EXPECT_THROW(self->all_gather(block.tensor(), other.tensor()), Error);
  EXPECT_THROW(self->all_gather(block.tensor().slice(0, 3), block.tensor().slice(2, 3)), Error);
  EXPECT_THROW(self->all_to_all(block.tensor(), block.tensor()), Error);
  EXPECT_THROW(self->all_to_all(block.tensor(), third.tensor().slice(0, 11)), Error);
  EXPECT_THROW(self->all_to_all(block.tensor(), Tensor{nullptr, {12}, Dtype::f32}), Error);
  EXPECT_THROW(self->all_to_all(Tensor{block.tensor().data, {12}, Dtype::f32, DeviceKind::cuda}, third.tensor()),
               Error);
  EXPECT_THROW(self->finish_all_to_all(), Error);
  EXPECT_THROW(static_cast<void>(self->split(-1)), Error);
  self->start_all_to_all(block.tensor(), third.tensor());
  EXPECT_THROW(self->start_all_to_all(block.tensor(), third.tensor()), Error);
}

TEST(SelfCommunicator, SplitsIntoItselfAndGathersItsOwnString) {
  const auto self = make_self_communicator();
  EXPECT_EQ(self->split(3)->size(), 1);
  EXPECT_EQ(self->all_gather_strings("alone"), std::vector<std::string>{"alone"});
  EXPECT_EQ(self->all_gather_strings(""), std::vector<std::string>{""});
}

}  // namespace
}  // namespace vitrail::test
