// Every verb at 1 to 4 ranks: in one piece per MPI call, cut by small limits, and with device memory.
#include <numeric>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "tests/comm/kinds.hpp"

namespace vitrail::test {
namespace {

std::int64_t share_of(int rank) { return 10 * rank + 3; }

TEST_P(OnRanks, BroadcastBringsTheRootsBytesToAllRanks) {
  Communicator& comm = ranks();
  for (const Dtype dtype : kDtypes) {
    for (const std::int64_t elements : kSizes) {
      if (too_long(dtype, elements)) continue;
      for (int root = 0; root < comm.size(); ++root) {
        Block block = make_block(dtype, elements);
        if (comm.rank() == root) block.fill(0, 1, root, 0);
        comm.broadcast(block.tensor(), root);
        EXPECT_TRUE(block.holds(0, 1, root, 0)) << name_of(dtype) << " x " << elements << " from " << root;
      }
    }
  }
}

TEST_P(OnRanks, AllGatherJoinsInRankOrder) {
  Communicator& comm = ranks();
  for (const Dtype dtype : kDtypes) {
    for (const std::int64_t elements : kSizes) {
      if (too_long(dtype, elements)) continue;
      Block from = make_block(dtype, elements);
      Block to = make_block(dtype, elements * comm.size());
      from.fill(0, 1, comm.rank(), 0);
      comm.all_gather(from.tensor(), to.tensor());
      for (int rank = 0; rank < comm.size(); ++rank) {
        EXPECT_TRUE(to.holds(rank, comm.size(), rank, 0)) << name_of(dtype) << " x " << elements << " of " << rank;
      }
    }
  }
}

TEST_P(OnRanks, AllGatherMayStartFromItsOwnPart) {
  Communicator& comm = ranks();
  for (const std::int64_t elements : kSizes) {
    if (too_long(Dtype::f32, elements)) continue;
    Block to = make_block(Dtype::f32, elements * comm.size());
    to.fill(comm.rank(), comm.size(), comm.rank(), 0);
    comm.all_gather(to.tensor().slice(comm.rank() * elements, elements), to.tensor());
    for (int rank = 0; rank < comm.size(); ++rank) EXPECT_TRUE(to.holds(rank, comm.size(), rank, 0)) << elements;
  }
}

TEST_P(OnRanks, AllToAllSendsPartRToRankR) {
  Communicator& comm = ranks();
  for (const Dtype dtype : kDtypes) {
    for (const std::int64_t elements : kSizes) {
      if (too_long(dtype, elements)) continue;
      Block from = make_block(dtype, elements * comm.size());
      Block to = make_block(dtype, elements * comm.size());
      for (int rank = 0; rank < comm.size(); ++rank) from.fill(rank, comm.size(), comm.rank(), rank);
      comm.all_to_all(from.tensor(), to.tensor());
      for (int rank = 0; rank < comm.size(); ++rank) {
        EXPECT_TRUE(to.holds(rank, comm.size(), rank, comm.rank())) << name_of(dtype) << " x " << elements;
        EXPECT_TRUE(from.holds(rank, comm.size(), comm.rank(), rank)) << "the source was changed";
      }
    }
  }
}

TEST_P(OnRanks, OtherVerbsMayRunWhileAnExchangeIsInFlight) {
  Communicator& comm = ranks();
  const std::int64_t elements = too_long(Dtype::f32, 3000) ? 11 : 3000;
  Block from = make_block(Dtype::f32, elements * comm.size());
  Block to = make_block(Dtype::f32, elements * comm.size());
  for (int rank = 0; rank < comm.size(); ++rank) from.fill(rank, comm.size(), comm.rank(), rank);
  comm.start_all_to_all(from.tensor(), to.tensor());
  std::int64_t largest = comm.rank();
  comm.all_max({&largest, 1});
  EXPECT_EQ(largest, comm.size() - 1);
  comm.barrier();
  comm.finish_all_to_all();
  for (int rank = 0; rank < comm.size(); ++rank) EXPECT_TRUE(to.holds(rank, comm.size(), rank, comm.rank()));
}

TEST_P(OnRanks, TwoCommunicatorsCarryAnExchangeEach) {
  Communicator& comm = ranks();
  const auto second = comm.split(0);
  const std::int64_t elements = too_long(Dtype::i64, 500) ? 7 : 500;
  Block from = make_block(Dtype::i64, comm.size() * elements);
  Block to = make_block(Dtype::i64, comm.size() * elements);
  Block back = make_block(Dtype::i64, comm.size() * elements);
  for (int rank = 0; rank < comm.size(); ++rank) from.fill(rank, comm.size(), comm.rank(), rank);
  comm.start_all_to_all(from.tensor(), to.tensor());
  second->start_all_to_all(from.tensor(), back.tensor());
  second->finish_all_to_all();
  comm.finish_all_to_all();
  for (int rank = 0; rank < comm.size(); ++rank) {
    EXPECT_TRUE(to.holds(rank, comm.size(), rank, comm.rank()));
    EXPECT_TRUE(back.holds(rank, comm.size(), rank, comm.rank()));
  }
}

TEST_P(OnRanks, IntegersAreReducedElementwise) {
  Communicator& comm = ranks();
  constexpr std::int64_t kBig = std::int64_t{1} << 60;  // a double would lose the low bits
  for (const std::int64_t count : {0, 1, 7, 1000}) {
    std::vector<std::int64_t> mine(static_cast<std::size_t>(count));
    for (std::size_t i = 0; i < mine.size(); ++i) {
      mine[i] = (i % 2 == 0 ? 1 : -1) * (kBig / 4 + share_of(comm.rank()) + static_cast<std::int64_t>(i));
    }
    auto least = mine;
    auto most = mine;
    auto sum = mine;
    comm.all_min(least);
    comm.all_max(most);
    comm.all_sum(sum);
    for (std::size_t i = 0; i < mine.size(); ++i) {
      const std::int64_t base = kBig / 4 + static_cast<std::int64_t>(i);
      const std::int64_t low = base + share_of(0);
      const std::int64_t high = base + share_of(comm.size() - 1);
      std::int64_t total = 0;
      for (int rank = 0; rank < comm.size(); ++rank) total += base + share_of(rank);
      ASSERT_EQ(least[i], i % 2 == 0 ? low : -high);
      ASSERT_EQ(most[i], i % 2 == 0 ? high : -low);
      ASSERT_EQ(sum[i], i % 2 == 0 ? total : -total);
    }
  }
}

TEST_P(OnRanks, NobodyLeavesABarrierBeforeTheLastHasCome) {
  Communicator& comm = ranks();
  // If a barrier let a rank through early, its next round would meet the others' last one: counts would differ.
  for (std::int64_t round = 0; round < 20; ++round) {
    std::int64_t seen = round;
    comm.barrier();
    comm.all_sum({&seen, 1});
    ASSERT_EQ(seen, round * comm.size());
  }
}

TEST_P(OnRanks, StringsOfDifferentLengthsAreGathered) {
  Communicator& comm = ranks();
  const auto word = [](int rank) {
    return rank == 1 ? std::string()
                     : std::string(static_cast<std::size_t>(rank * 40 + 1), static_cast<char>('a' + rank)) + '\0' + "z";
  };
  const auto all = comm.all_gather_strings(word(comm.rank()));
  ASSERT_EQ(all.size(), static_cast<std::size_t>(comm.size()));
  for (int rank = 0; rank < comm.size(); ++rank) EXPECT_EQ(all[static_cast<std::size_t>(rank)], word(rank));
  const auto none = comm.all_gather_strings("");
  EXPECT_EQ(none, std::vector<std::string>(static_cast<std::size_t>(comm.size())));
}

TEST_P(OnRanks, SplitsIntoRowsAndColumnsInRankOrder) {
  Communicator& comm = ranks();
  constexpr int kWidth = 2;
  const auto row = comm.split(comm.rank() / kWidth);
  const auto column = comm.split(comm.rank() % kWidth);
  EXPECT_EQ(row->rank(), comm.rank() % kWidth);
  EXPECT_EQ(column->rank(), comm.rank() / kWidth);
  const int row_first = comm.rank() / kWidth * kWidth;
  EXPECT_EQ(row->size(), std::min(kWidth, comm.size() - row_first));
  EXPECT_EQ(column->size(), (comm.size() - comm.rank() % kWidth + kWidth - 1) / kWidth);

  const std::int64_t mine = comm.rank();
  std::vector<std::int64_t> in_row(static_cast<std::size_t>(row->size()));
  row->all_gather({&mine, {1}, Dtype::i64}, {in_row.data(), {row->size()}, Dtype::i64});
  for (int i = 0; i < row->size(); ++i) EXPECT_EQ(in_row[static_cast<std::size_t>(i)], row_first + i);
  std::vector<std::int64_t> in_column(static_cast<std::size_t>(column->size()));
  column->all_gather({&mine, {1}, Dtype::i64}, {in_column.data(), {column->size()}, Dtype::i64});
  for (int i = 0; i < column->size(); ++i) {
    EXPECT_EQ(in_column[static_cast<std::size_t>(i)], comm.rank() % kWidth + i * kWidth);
  }
}

// All ranks break the rule alike, so no rank waits for another.
TEST_P(OnRanks, WrongArgumentsAreRefusedBeforeAnythingIsSent) {
  Communicator& comm = ranks();
  Block block = make_block(Dtype::f32, 12 * comm.size());
  Block other = make_block(Dtype::f32, 12 * comm.size());
  EXPECT_THROW(comm.broadcast(block.tensor(), comm.size()), Error);
  EXPECT_THROW(comm.broadcast(block.tensor(), -1), Error);
  EXPECT_THROW(comm.all_gather(other.tensor(), block.tensor().slice(0, 1)), Error);
  EXPECT_THROW(comm.all_to_all(block.tensor(), block.tensor()), Error);
  EXPECT_THROW(comm.finish_all_to_all(), Error);
  EXPECT_THROW(comm.split(-1), Error);
  comm.start_all_to_all(block.tensor(), other.tensor());
  EXPECT_THROW(comm.start_all_to_all(block.tensor(), other.tensor()), Error);
  comm.finish_all_to_all();
}

INSTANTIATE_TEST_SUITE_P(Kinds, OnRanks, ::testing::ValuesIn(all_kinds()), name_of_kind);

TEST(MpiLibrary, NamesItself) {
  const std::string version = MpiSession::library_version();
  EXPECT_NE(version.find("MPI"), std::string::npos) << version;
  EXPECT_EQ(version.find_first_of(",\n"), std::string::npos) << version;
}

TEST(CallLimit, IsRefusedForACommunicatorThatIsNotMpi) {
  const auto self = make_self_communicator();
  EXPECT_THROW(static_cast<void>(duplicate_with_call_limit(*self, 10)), Error);
}

}  // namespace
}  // namespace vitrail::test
