#include <memory>
#include <utility>

#include "comm/communicator.hpp"

namespace vitrail {

namespace {

class WatchedCommunicator final : public Communicator {
 public:
  WatchedCommunicator(Communicator& inner, Activity& activity) : inner_(inner), activity_(activity) {}
  WatchedCommunicator(std::unique_ptr<Communicator> owned, Activity& activity)
      : owned_(std::move(owned)), inner_(*owned_), activity_(activity) {}

  [[nodiscard]] int rank() const noexcept override { return inner_.rank(); }
  [[nodiscard]] int size() const noexcept override { return inner_.size(); }
  void barrier() override {
    activity_.during_collective("barrier", [&] { inner_.barrier(); });
  }
  void broadcast(Tensor data, int root) override {
    activity_.during_collective("broadcast", [&] { inner_.broadcast(data, root); });
  }
  void all_gather(ConstTensor from, Tensor to) override {
    activity_.during_collective("all_gather", [&] { inner_.all_gather(from, to); });
  }
  // The halves of an exchange count one each: who is late for the second one is seen by its number.
  void start_all_to_all(ConstTensor from, Tensor to) override {
    activity_.during_collective("start_all_to_all", [&] { inner_.start_all_to_all(from, to); });
  }
  void finish_all_to_all() override {
    activity_.during_collective("finish_all_to_all", [&] { inner_.finish_all_to_all(); });
  }
  void all_min(std::span<std::int64_t> values) override {
    activity_.during_collective("all_min", [&] { inner_.all_min(values); });
  }
  void all_max(std::span<std::int64_t> values) override {
    activity_.during_collective("all_max", [&] { inner_.all_max(values); });
  }
  void all_sum(std::span<std::int64_t> values) override {
    activity_.during_collective("all_sum", [&] { inner_.all_sum(values); });
  }
  std::unique_ptr<Communicator> split(int colour) override {
    std::unique_ptr<Communicator> part;
    activity_.during_collective("split", [&] { part = inner_.split(colour); });
    return std::make_unique<WatchedCommunicator>(std::move(part), activity_);
  }

 private:
  std::unique_ptr<Communicator> owned_;  // set when this is a part of a split
  Communicator& inner_;
  Activity& activity_;
};

}  // namespace

std::unique_ptr<Communicator> make_watched_communicator(Communicator& inner, Activity& activity) {
  return std::make_unique<WatchedCommunicator>(inner, activity);
}

}  // namespace vitrail
