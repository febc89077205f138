#include <array>
#include <numeric>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "comm/communicator.hpp"
#include "tests/errors.hpp"

namespace vitrail::testing {
namespace {

/// One rank that writes down what the Activity says while it is called.
class Witness final : public Communicator {
 public:
  explicit Witness(const Activity& activity) : activity_(activity) {}
  [[nodiscard]] int rank() const noexcept override { return 0; }
  [[nodiscard]] int size() const noexcept override { return 1; }
  void barrier() override { note(); }
  void broadcast(Tensor, int) override { note(); }
  void all_gather(ConstTensor, Tensor) override { note(); }
  void start_all_to_all(ConstTensor, Tensor) override { note(); }
  void finish_all_to_all() override { note(); }
  void all_min(std::span<std::int64_t>) override { note(); }
  void all_max(std::span<std::int64_t>) override { note(); }
  void all_sum(std::span<std::int64_t>) override { note(); }
  std::unique_ptr<Communicator> split(int) override {
    note();
    return std::make_unique<Witness>(activity_);
  }

 private:
  void note() const {
    const Activity::Glance seen = activity_.look();
    EXPECT_TRUE(seen.inside);
    EXPECT_EQ(std::string(seen.what), expected().at(static_cast<std::size_t>(seen.collectives - 1)));
  }
  static const std::vector<std::string>& expected() {
    static const std::vector<std::string> calls = {
        "barrier", "broadcast", "all_gather", "start_all_to_all", "finish_all_to_all", "all_min", "all_max",
        "all_sum", "split",     "barrier",    "barrier"};
    return calls;
  }
  const Activity& activity_;
};

TEST(WatchedCommunicator, MarksAndCountsEveryCollectiveAlsoOfItsParts) {
  Activity activity;
  Witness inner(activity);
  const auto watched = make_watched_communicator(inner, activity);
  std::array<std::int64_t, 1> value{};
  const Tensor tensor(value.data(), {1}, Dtype::i64);
  watched->barrier();
  watched->broadcast(tensor, 0);
  watched->all_gather(tensor, tensor);
  watched->all_to_all(tensor, tensor);
  watched->all_min(value);
  watched->all_max(value);
  watched->all_sum(value);
  const auto part = watched->split(0);
  part->barrier();
  watched->barrier();
  EXPECT_EQ(activity.look().collectives, 11);
  EXPECT_FALSE(activity.look().inside);
  EXPECT_EQ(watched->size(), 1);
}

TEST(WatchedCommunicator, PassesTensorsOn) {
  Activity activity;
  const auto self = make_self_communicator();
  const auto watched = make_watched_communicator(*self, activity);
  std::array<std::int64_t, 4> from{1, 2, 3, 4}, to{};
  watched->all_to_all({from.data(), {4}, Dtype::i64}, {to.data(), {4}, Dtype::i64});
  EXPECT_EQ(from, to);
  EXPECT_EQ(watched->all_gather_strings("word"), std::vector<std::string>{"word"});
}

TEST(WatchedCommunicator, AnErrorNamesTheCollectiveAndTheLayer) {
  Activity activity;
  const auto self = make_self_communicator();
  const auto watched = make_watched_communicator(*self, activity);
  activity.layer(3);
  const Error error = error_of([&] { watched->finish_all_to_all(); });
  EXPECT_EQ(error.parts(), "finish_all_to_all, layer 3");
  EXPECT_EQ(error_of([&] { (void)watched->split(-1); }).parts(), "split, layer 3");
}

}  // namespace
}  // namespace vitrail::testing
