// The checked communicator beside ranks that are only played. Real ranks: ranks_checked.cpp.
#include <cstring>
#include <deque>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "comm/communicator.hpp"
#include "tests/comm/patterns.hpp"

namespace vitrail::test {
namespace {

// Rank 0 of two. Rank 1 repeats what was recorded of an earlier communicator's all_gathers, or echoes rank 0.
class PlayedPeer final : public Communicator {
 public:
  using Words = std::vector<std::byte>;
  explicit PlayedPeer(std::deque<Words> script = {}) : script_(std::move(script)) {}

  [[nodiscard]] int rank() const noexcept override { return 0; }
  [[nodiscard]] int size() const noexcept override { return 2; }
  void barrier() override { ++barriers; }
  void broadcast(Tensor, int) override {}
  void all_gather(ConstTensor from, Tensor to) override {
    const auto* mine = static_cast<const std::byte*>(from.data);
    Words sent(mine, mine + from.bytes());
    recorded.push_back(sent);
    Words answer = sent;
    if (!script_.empty()) {
      answer = script_.front();
      script_.pop_front();
    }
    ASSERT_EQ(answer.size(), sent.size());
    std::memcpy(to.data, sent.data(), sent.size());
    std::memcpy(static_cast<std::byte*>(to.data) + sent.size(), answer.data(), answer.size());
  }
  void start_all_to_all(ConstTensor, Tensor) override {}
  void finish_all_to_all() override {}
  void all_min(std::span<std::int64_t>) override {}
  void all_max(std::span<std::int64_t>) override {}
  void all_sum(std::span<std::int64_t>) override {}
  std::unique_ptr<Communicator> split(int) override { return make_self_communicator(); }

  int barriers = 0;
  std::deque<Words> recorded;

 private:
  std::deque<Words> script_;
};

TEST(CheckedCommunicator, PassesOnWhatTheRanksAgreeOn) {
  PlayedPeer peer;
  const auto checked = make_checked_communicator(peer);
  checked->barrier();
  checked->barrier();
  EXPECT_EQ(peer.barriers, 2);
  EXPECT_EQ(peer.recorded.size(), 2U);
  EXPECT_NE(peer.recorded[0], peer.recorded[1]) << "the calls are numbered";
}

TEST(CheckedCommunicator, ShowsBothCallsAndDoesNotMakeTheOne) {
  PlayedPeer other_side;
  Block block(Dtype::bf16, 6);
  make_checked_communicator(other_side)->broadcast(block.tensor().view({2, 3}), 1);

  PlayedPeer peer(other_side.recorded);
  const auto checked = make_checked_communicator(peer);
  try {
    checked->barrier();
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(
        error.fault().problem,
        "rank 0 calls barrier as call 1, but rank 1 calls broadcast bf16 [2, 3] from rank 1 as call 1 on the same "
        "communicator of 2 ranks");
    EXPECT_EQ(error.code(), ExitCode::other);
  }
  EXPECT_EQ(peer.barriers, 0);
}

TEST(CheckedCommunicator, KnowsEveryVerbFromEveryOther) {
  PlayedPeer peer;
  Block from(Dtype::i64, 2);
  Block to(Dtype::i64, 2);
  std::vector<std::int64_t> values{1, 2};
  const auto first_call = [&](const auto& verb) {
    const auto checked = make_checked_communicator(peer);
    peer.recorded.clear();
    verb(*checked);
    return peer.recorded.front();
  };
  const std::vector<PlayedPeer::Words> calls{
      first_call([&](Communicator& c) { c.barrier(); }),
      first_call([&](Communicator& c) { c.broadcast(from.tensor(), 0); }),
      first_call([&](Communicator& c) { c.all_gather(from.tensor().slice(0, 1), to.tensor()); }),
      first_call([&](Communicator& c) { c.start_all_to_all(from.tensor(), to.tensor()); }),
      first_call([&](Communicator& c) { c.finish_all_to_all(); }),
      first_call([&](Communicator& c) { c.all_min(values); }),
      first_call([&](Communicator& c) { c.all_max(values); }),
      first_call([&](Communicator& c) { c.all_sum(values); }),
      first_call([&](Communicator& c) { static_cast<void>(c.split(0)); }),
  };
  for (std::size_t a = 0; a < calls.size(); ++a) {
    for (std::size_t b = 0; b < a; ++b) EXPECT_NE(calls[a], calls[b]) << a << " and " << b;
  }
}

TEST(CheckedCommunicator, OfOneRankBehavesLikeThatRank) {
  const auto self = make_self_communicator();
  const auto checked = make_checked_communicator(*self);
  Block from(Dtype::f32, 7);
  Block to(Dtype::f32, 7);
  from.fill(0, 1, 0, 0);
  checked->all_to_all(from.tensor(), to.tensor());
  EXPECT_TRUE(to.holds(0, 1, 0, 0));
  EXPECT_EQ(checked->split(0)->split(1)->all_gather_strings("deep"), std::vector<std::string>{"deep"});
  EXPECT_THROW(checked->broadcast(from.tensor(), 1), Error);
}

}  // namespace
}  // namespace vitrail::test
