#pragma once
// Decorator: a communicator that also counts calls, seconds and the bytes that leave this rank, waiting for others
// included. What it splits off counts under names of its own.

#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "base/timer.hpp"
#include "comm/communicator.hpp"

namespace vitrail {

struct CommCount {
  std::string name;  ///< "world all_to_all"
  std::int64_t calls = 0;
  double seconds = 0;
  double bytes = 0;
};

class CountingCommunicator final : public Communicator {
 public:
  /// The ranks split off first, second ... are called by these names. `inner` must outlive it; it must outlive what it
  /// splits off.
  CountingCommunicator(Communicator& inner, std::string name, std::vector<std::string> splits);

  [[nodiscard]] int rank() const noexcept override { return inner_.rank(); }
  [[nodiscard]] int size() const noexcept override { return inner_.size(); }
  void barrier() override;
  void broadcast(Tensor data, int root) override;
  void all_gather(ConstTensor from, Tensor to) override;
  void start_all_to_all(ConstTensor from, Tensor to) override;
  void finish_all_to_all() override;
  void all_min(std::span<std::int64_t> values) override;
  void all_max(std::span<std::int64_t> values) override;
  void all_sum(std::span<std::int64_t> values) override;
  std::unique_ptr<Communicator> split(int colour) override;

  /// Those of what was split off included.
  [[nodiscard]] const std::deque<CommCount>& counts() const noexcept { return *counts_; }
  void reset();

 private:
  CountingCommunicator(std::unique_ptr<Communicator> owned, std::string name, std::deque<CommCount>& counts);
  CommCount& entry(const char* verb);
  template <class Work>
  void count(CommCount& entry, double bytes, const Work& work);

  std::unique_ptr<Communicator> owned_;
  Communicator& inner_;
  std::string name_;
  std::vector<std::string> splits_;
  std::size_t splits_made_ = 0;
  std::deque<CommCount> own_counts_;  // a deque: references stay valid
  std::deque<CommCount>* counts_;
  CommCount& all_to_all_;
  CommCount& all_gather_;
  CommCount& other_;
};

}  // namespace vitrail
