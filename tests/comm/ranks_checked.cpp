// The checked communicator: ranks that disagree all get the same Error, and nobody hangs.
#include <functional>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "tests/comm/patterns.hpp"
#include "tests/ranks_main.hpp"

namespace vitrail::test {
namespace {

// What the Error says that `call` throws; empty when it throws none.
std::string error_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  return {};
}

// Every rank must have the same error with both descriptions in it; on one rank alone nothing can differ.
void expect_both(const std::string& said, const std::string& rank_0_calls, const std::string& other_calls) {
  if (world().size() == 1) {
    EXPECT_EQ(said, "");
    return;
  }
  EXPECT_NE(said.find("rank 0 calls " + rank_0_calls), std::string::npos) << said;
  EXPECT_NE(said.find(other_calls), std::string::npos) << said;
  for (const std::string& of_other_rank : world().all_gather_strings(said)) EXPECT_EQ(of_other_rank, said);
}

bool is_last() { return world().rank() > 0 && world().rank() == world().size() - 1; }

TEST(CheckedRanks, AnotherShapeIsAnErrorOnEveryRank) {
  const auto checked = make_checked_communicator(world());
  const std::int64_t elements = is_last() ? 8 : 7;
  Block from(Dtype::f32, elements);
  Block to(Dtype::f32, elements * world().size());
  const std::string said = error_of([&] { checked->all_gather(from.tensor(), to.tensor()); });
  expect_both(said, "all_gather f32 [7] as call 1",
              text("rank ", world().size() - 1, " calls all_gather f32 [8] as call 1"));
}

TEST(CheckedRanks, ATransposedShapeIsAnErrorAlthoughItsBytesFit) {
  const auto checked = make_checked_communicator(world());
  Block block(Dtype::f64, 6);
  const Tensor seen = block.tensor().view(is_last() ? Shape{3, 2} : Shape{2, 3});
  expect_both(error_of([&] { checked->broadcast(seen, 0); }), "broadcast f64 [2, 3] from rank 0",
              "broadcast f64 [3, 2] from rank 0");
}

TEST(CheckedRanks, AnotherDtypeOfTheSameWidthIsAnError) {
  const auto checked = make_checked_communicator(world());
  const Dtype dtype = is_last() ? Dtype::i32 : Dtype::f32;
  Block from(dtype, 4 * world().size());
  Block to(dtype, 4 * world().size());
  const std::string shape = from.tensor().shape.str();
  expect_both(error_of([&] { checked->all_to_all(from.tensor(), to.tensor()); }), "start_all_to_all f32 " + shape,
              "start_all_to_all i32 " + shape);
}

TEST(CheckedRanks, AnotherVerbIsAnErrorOnEveryRank) {
  const auto checked = make_checked_communicator(world());
  checked->barrier();
  std::int64_t value = 1;
  const auto call = [&] { is_last() ? checked->barrier() : checked->all_sum({&value, 1}); };
  expect_both(error_of(call), "all_sum i64 [1] as call 2", "calls barrier as call 2");
}

TEST(CheckedRanks, AnotherRootIsAnError) {
  const auto checked = make_checked_communicator(world());
  Block block(Dtype::u8, 5);
  expect_both(error_of([&] { checked->broadcast(block.tensor(), is_last() ? 1 : 0); }), "broadcast u8 [5] from rank 0",
              "broadcast u8 [5] from rank 1");
}

TEST(CheckedRanks, AMissingFinishIsFound) {
  const auto checked = make_checked_communicator(world());
  Block from(Dtype::f32, 3 * world().size());
  Block to(Dtype::f32, 3 * world().size());
  checked->start_all_to_all(from.tensor(), to.tensor());
  const auto call = [&] { is_last() ? checked->barrier() : checked->finish_all_to_all(); };
  expect_both(error_of(call), "finish_all_to_all as call 2", "calls barrier as call 2");
  // The world itself still has the exchange in flight where the finish was refused.
  if (world().size() > 1) world().finish_all_to_all();
}

TEST(CheckedRanks, PartsOfASplitAreCheckedToo) {
  const auto checked = make_checked_communicator(world());
  const auto part = checked->split(0);
  std::vector<std::int64_t> values(is_last() ? 3 : 2);
  expect_both(error_of([&] { part->all_min(values); }), "all_min i64 [2]", "all_min i64 [3]");
}

TEST(CheckedRanks, RanksThatAgreeGetTheirResults) {
  const auto checked = make_checked_communicator(world());
  const int ranks = checked->size();
  Block from(Dtype::f32, 33 * ranks);
  Block to(Dtype::f32, 33 * ranks);
  for (int rank = 0; rank < ranks; ++rank) from.fill(rank, ranks, checked->rank(), rank);
  checked->all_to_all(from.tensor(), to.tensor());
  for (int rank = 0; rank < ranks; ++rank) EXPECT_TRUE(to.holds(rank, ranks, rank, checked->rank()));
  std::int64_t least = checked->rank() + 5;
  checked->all_min({&least, 1});
  EXPECT_EQ(least, 5);
  EXPECT_EQ(checked->all_gather_strings(text(checked->rank())).back(), text(ranks - 1));
}

}  // namespace
}  // namespace vitrail::test
