#include "apps/counting_communicator.hpp"

namespace vitrail {

CountingCommunicator::CountingCommunicator(Communicator& inner, std::string name, std::vector<std::string> splits)
    : inner_(inner),
      name_(std::move(name)),
      splits_(std::move(splits)),
      counts_(&own_counts_),
      all_to_all_(entry("all_to_all")),
      all_gather_(entry("all_gather")),
      other_(entry("other")) {}

CountingCommunicator::CountingCommunicator(std::unique_ptr<Communicator> owned, std::string name,
                                           std::deque<CommCount>& counts)
    : owned_(std::move(owned)),
      inner_(*owned_),
      name_(std::move(name)),
      counts_(&counts),
      all_to_all_(entry("all_to_all")),
      all_gather_(entry("all_gather")),
      other_(entry("other")) {}

CommCount& CountingCommunicator::entry(const char* verb) {
  return counts_->emplace_back(CommCount{.name = name_ + " " + verb});
}

template <class Work>
void CountingCommunicator::count(CommCount& entry, double bytes, const Work& work) {
  const Stopwatch clock;
  work();
  entry.seconds += clock.seconds();
  ++entry.calls;
  entry.bytes += bytes;
}

void CountingCommunicator::barrier() {
  count(other_, 0, [&] { inner_.barrier(); });
}
void CountingCommunicator::broadcast(Tensor data, int root) {
  count(other_, root == rank() ? static_cast<double>(data.bytes() * (size() - 1)) : 0,
        [&] { inner_.broadcast(data, root); });
}
void CountingCommunicator::all_gather(ConstTensor from, Tensor to) {
  count(all_gather_, static_cast<double>(from.bytes() * (size() - 1)), [&] { inner_.all_gather(from, to); });
}
void CountingCommunicator::start_all_to_all(ConstTensor from, Tensor to) {
  count(all_to_all_, static_cast<double>(from.bytes() / size() * (size() - 1)),
        [&] { inner_.start_all_to_all(from, to); });
}
void CountingCommunicator::finish_all_to_all() {
  const Stopwatch clock;  // the second half of a call that is counted already
  inner_.finish_all_to_all();
  all_to_all_.seconds += clock.seconds();
}
void CountingCommunicator::all_min(std::span<std::int64_t> values) {
  count(other_, 0, [&] { inner_.all_min(values); });
}
void CountingCommunicator::all_max(std::span<std::int64_t> values) {
  count(other_, 0, [&] { inner_.all_max(values); });
}
void CountingCommunicator::all_sum(std::span<std::int64_t> values) {
  count(other_, 0, [&] { inner_.all_sum(values); });
}

std::unique_ptr<Communicator> CountingCommunicator::split(int colour) {
  std::string name = splits_made_ < splits_.size() ? splits_[splits_made_] : name_ + "'s part";
  ++splits_made_;
  return std::unique_ptr<Communicator>(new CountingCommunicator(inner_.split(colour), std::move(name), *counts_));
}

void CountingCommunicator::reset() {
  for (CommCount& one : *counts_) {
    one.calls = 0;
    one.seconds = one.bytes = 0;
  }
}

}  // namespace vitrail
