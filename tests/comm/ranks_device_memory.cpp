// Communicators on device memory: verbs take their turn in the queue of the device, and nobody waits for it by hand.

#include <cstdint>

#include <gtest/gtest.h>

#include "tests/comm/kinds.hpp"

namespace vitrail::test {
namespace {

class OnDeviceMemory : public OnRanks {
 protected:
  // What this rank has for every rank, in round `round`.
  void fill_parts(Block& block, int round) {
    for (int to = 0; to < ranks().size(); ++to) block.fill(to, ranks().size(), ranks().rank() + 8 * round, to);
  }
  bool came(Block& block, int round) {
    bool same = true;
    for (int from = 0; from < ranks().size(); ++from) {
      same = same && block.holds(from, ranks().size(), from + 8 * round, ranks().rank());
    }
    return same;
  }
  static constexpr std::int64_t kElements = 333;
};

TEST_P(OnDeviceMemory, AnExchangeTakesItsTurnInTheQueue) {
  Communicator& comm = ranks();
  Block source = make_block(Dtype::f32, kElements * comm.size());
  fill_parts(source, 0);
  Block from = make_block(Dtype::f32, kElements * comm.size());
  Block to = make_block(Dtype::f32, kElements * comm.size());
  Block seen = make_block(Dtype::f32, kElements * comm.size());
  device()->copy(source.tensor(), from.tensor());
  comm.all_to_all(from.tensor(), to.tensor());
  device()->zero(from.tensor());
  device()->copy(to.tensor(), seen.tensor());
  device()->zero(to.tensor());
  EXPECT_TRUE(came(seen, 0));
}

TEST_P(OnDeviceMemory, AGatherTakesItsTurnInTheQueue) {
  Communicator& comm = ranks();
  Block source = make_block(Dtype::f32, kElements);
  source.fill(0, 1, comm.rank(), 0);
  Block from = make_block(Dtype::f32, kElements);
  Block to = make_block(Dtype::f32, kElements * comm.size());
  Block seen = make_block(Dtype::f32, kElements * comm.size());
  device()->copy(source.tensor(), from.tensor());
  comm.all_gather(from.tensor(), to.tensor());
  device()->zero(from.tensor());
  device()->copy(to.tensor(), seen.tensor());
  device()->zero(to.tensor());
  for (int rank = 0; rank < comm.size(); ++rank) EXPECT_TRUE(seen.holds(rank, comm.size(), rank, 0));
}

TEST_P(OnDeviceMemory, ABroadcastTakesItsTurnInTheQueue) {
  Communicator& comm = ranks();
  for (int root = 0; root < comm.size(); ++root) {
    Block source = make_block(Dtype::f32, kElements);
    source.fill(0, 1, comm.rank(), root);
    Block data = make_block(Dtype::f32, kElements);
    Block before = make_block(Dtype::f32, kElements);
    Block seen = make_block(Dtype::f32, kElements);
    device()->copy(source.tensor(), data.tensor());
    device()->copy(data.tensor(), before.tensor());
    comm.broadcast(data.tensor(), root);
    device()->release_host(device()->allocate_host(64), 64);  // an upload that is too early comes now
    device()->copy(data.tensor(), seen.tensor());
    device()->zero(data.tensor());
    EXPECT_TRUE(before.holds(0, 1, comm.rank(), root));
    EXPECT_TRUE(seen.holds(0, 1, root, root));
  }
}

// The queue holds the results of several verbs before any of them is looked at.
TEST_P(OnDeviceMemory, VerbsInARowDoNotOverwriteEachOther) {
  Communicator& comm = ranks();
  Block first = make_block(Dtype::f32, kElements * comm.size());
  fill_parts(first, 1);
  Block second = make_block(Dtype::f32, kElements * comm.size());
  fill_parts(second, 2);
  Block first_to = make_block(Dtype::f32, kElements * comm.size());
  Block second_to = make_block(Dtype::f32, kElements * comm.size());
  comm.all_to_all(first.tensor(), first_to.tensor());
  comm.all_to_all(second.tensor(), second_to.tensor());
  const std::int64_t own = comm.rank() * kElements;
  Block gathered = make_block(Dtype::f32, kElements * comm.size());
  Block again = make_block(Dtype::f32, kElements * comm.size());
  comm.all_gather(first.tensor().slice(own, kElements), gathered.tensor());
  comm.all_gather(second.tensor().slice(own, kElements), again.tensor());
  Block told = make_block(Dtype::f32, kElements);
  Block told_again = make_block(Dtype::f32, kElements);
  if (comm.rank() == 0) told.fill(0, 1, 0, 1);
  if (comm.rank() == 0) told_again.fill(0, 1, 0, 2);
  comm.broadcast(told.tensor(), 0);
  comm.broadcast(told_again.tensor(), 0);
  EXPECT_TRUE(came(first_to, 1));
  EXPECT_TRUE(came(second_to, 2));
  EXPECT_TRUE(told.holds(0, 1, 0, 1));
  EXPECT_TRUE(told_again.holds(0, 1, 0, 2));
  for (int rank = 0; rank < comm.size(); ++rank) {
    EXPECT_TRUE(gathered.holds(rank, comm.size(), rank + 8, rank));
    EXPECT_TRUE(again.holds(rank, comm.size(), rank + 16, rank));
  }
}

TEST_P(OnDeviceMemory, TheQueueGoesOnWhileAnExchangeIsInFlight) {
  Communicator& comm = ranks();
  Block from = make_block(Dtype::f32, kElements * comm.size());
  fill_parts(from, 3);
  Block to = make_block(Dtype::f32, kElements * comm.size());
  Block other = make_block(Dtype::f32, kElements * comm.size());
  fill_parts(other, 4);
  Block seen = make_block(Dtype::f32, kElements * comm.size());
  comm.start_all_to_all(from.tensor(), to.tensor());
  device()->copy(other.tensor(), seen.tensor());
  Block root = make_block(Dtype::f32, kElements);
  root.fill(0, 1, comm.rank(), 0);
  comm.broadcast(root.tensor(), 0);
  comm.finish_all_to_all();
  EXPECT_TRUE(came(to, 3));
  EXPECT_TRUE(root.holds(0, 1, 0, 0));
  EXPECT_TRUE(seen.holds(0, comm.size(), comm.rank() + 32, 0));
}

TEST_P(OnDeviceMemory, HostTensorsTravelToo) {
  Communicator& comm = ranks();
  Block from(Dtype::i64, kElements * comm.size());
  Block to(Dtype::i64, kElements * comm.size());
  for (int rank = 0; rank < comm.size(); ++rank) from.fill(rank, comm.size(), comm.rank(), rank);
  comm.start_all_to_all(from.tensor(), to.tensor());
  comm.finish_all_to_all();
  for (int rank = 0; rank < comm.size(); ++rank) EXPECT_TRUE(to.holds(rank, comm.size(), rank, comm.rank()));
  Block all(Dtype::i64, kElements * comm.size());
  comm.all_gather(from.tensor().slice(0, kElements), all.tensor());
  for (int rank = 0; rank < comm.size(); ++rank) EXPECT_TRUE(all.holds(rank, comm.size(), rank, 0));
}

TEST_P(OnDeviceMemory, OneCallTakesOneKindOfMemory) {
  Communicator& comm = ranks();
  Block here(Dtype::f32, 12 * comm.size());
  Block there = make_block(Dtype::f32, 12 * comm.size());
  if (GetParam().checked) return;  // the ranks agree, and the error is the inner one's
  EXPECT_THROW(comm.all_to_all(here.tensor(), there.tensor()), Error);
  EXPECT_THROW(comm.all_gather(there.tensor().slice(0, 12), here.tensor()), Error);
}

INSTANTIATE_TEST_SUITE_P(Kinds, OnDeviceMemory, ::testing::ValuesIn(device_kinds()), name_of_kind);
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(OnDeviceMemory);

#ifdef VITRAIL_TEST_DEVICE

TEST(StagedCommunicator, CannotBeRecordedAndSaysSo) {
  const auto device = make_cuda_device({.graphs = true});
  const auto self = make_self_communicator();
  const auto staged = make_staged_communicator(*self, *device);
  Block block(Dtype::f32, 12, device.get());
  for (int call = 0; call < 2; ++call) {
    const auto submit = [&] { device->submit("step", [&] { staged->broadcast(block.tensor(), 0); }); };
    EXPECT_THROW(submit(), Error);
  }
}

TEST(SelfOnDeviceMemory, CopiesInTheQueueWhenAnExchangeIsFinished) {
  const auto device = make_cuda_device();
  const auto alone = make_self_communicator(device.get());
  const auto split = alone->split(0);
  const auto checked = make_checked_communicator(*alone);
  for (Communicator* self : {alone.get(), split.get(), checked.get()}) {
    Block from(Dtype::i64, 10, device.get());
    Block to(Dtype::i64, 10, device.get());
    Block seen(Dtype::i64, 10, device.get());
    from.fill(0, 1, 3, 4);
    self->start_all_to_all(from.tensor(), to.tensor());
    EXPECT_FALSE(to.holds(0, 1, 3, 4));
    self->finish_all_to_all();
    device->copy(to.tensor(), seen.tensor());
    device->zero(from.tensor());
    EXPECT_TRUE(seen.holds(0, 1, 3, 4));
    from.fill(0, 1, 5, 6);
    self->all_gather(from.tensor(), to.tensor());
    self->broadcast(from.tensor(), 0);
    self->all_gather(from.tensor(), from.tensor());
    EXPECT_TRUE(to.holds(0, 1, 5, 6));
    EXPECT_TRUE(from.holds(0, 1, 5, 6));
  }
}

TEST(SelfOnDeviceMemory, IsRefusedWithoutADevice) {
  const auto device = make_cuda_device();
  const auto self = make_self_communicator();
  Block from(Dtype::f32, 12, device.get());
  Block to(Dtype::f32, 12, device.get());
  EXPECT_THROW(self->all_to_all(from.tensor(), to.tensor()), Error);
  EXPECT_THROW(self->all_gather(from.tensor(), to.tensor()), Error);
  EXPECT_THROW(self->broadcast(from.tensor(), 0), Error);
}

#endif

}  // namespace
}  // namespace vitrail::test
