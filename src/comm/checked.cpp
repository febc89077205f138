#include <array>
#include <utility>

#include "base/error.hpp"
#include "comm/communicator.hpp"

namespace vitrail {

namespace {

enum class Verb : std::uint8_t {
  barrier,
  broadcast,
  all_gather,
  start_all_to_all,
  finish_all_to_all,
  all_min,
  all_max,
  all_sum,
  split,
};

constexpr std::array<const char*, 9> kVerbNames = {"barrier",          "broadcast",         "all_gather",
                                                   "start_all_to_all", "finish_all_to_all", "all_min",
                                                   "all_max",          "all_sum",           "split"};

constexpr std::int64_t kNone = -1;

// One call as its rank sees it, in 64-bit words that travel by all_gather:
// number, verb, dtype or kNone, root or kNone, axes, lengths[kMaxAxes].
using Call = std::array<std::int64_t, 5 + Shape::kMaxAxes>;

std::string described(const Call& call) {
  std::string said = kVerbNames.at(static_cast<std::size_t>(call[1]));
  if (call[2] != kNone) {
    const Shape shape(std::span<const std::int64_t>(call).subspan(5, static_cast<std::size_t>(call[4])));
    said += text(" ", name_of(static_cast<Dtype>(call[2])), " ", shape.str());
  }
  if (call[3] != kNone) said += text(" from rank ", call[3]);
  return said + text(" as call ", call[0]);
}

class CheckedCommunicator final : public Communicator {
 public:
  explicit CheckedCommunicator(Communicator& inner) : inner_(inner), calls_(static_cast<std::size_t>(inner.size())) {}
  explicit CheckedCommunicator(std::unique_ptr<Communicator> owned)
      : owned_(std::move(owned)), inner_(*owned_), calls_(static_cast<std::size_t>(inner_.size())) {}

  [[nodiscard]] int rank() const noexcept override { return inner_.rank(); }
  [[nodiscard]] int size() const noexcept override { return inner_.size(); }
  void barrier() override {
    agree(Verb::barrier);
    inner_.barrier();
  }
  void broadcast(Tensor data, int root) override {
    agree(Verb::broadcast, data, root);
    inner_.broadcast(data, root);
  }
  void all_gather(ConstTensor from, Tensor to) override {
    agree(Verb::all_gather, from);
    inner_.all_gather(from, to);
  }
  void start_all_to_all(ConstTensor from, Tensor to) override {
    agree(Verb::start_all_to_all, from);
    inner_.start_all_to_all(from, to);
  }
  void finish_all_to_all() override {
    agree(Verb::finish_all_to_all);
    inner_.finish_all_to_all();
  }
  void all_min(std::span<std::int64_t> values) override {
    agree(Verb::all_min, as_tensor(values));
    inner_.all_min(values);
  }
  void all_max(std::span<std::int64_t> values) override {
    agree(Verb::all_max, as_tensor(values));
    inner_.all_max(values);
  }
  void all_sum(std::span<std::int64_t> values) override {
    agree(Verb::all_sum, as_tensor(values));
    inner_.all_sum(values);
  }
  std::unique_ptr<Communicator> split(int colour) override {
    agree(Verb::split);
    return std::make_unique<CheckedCommunicator>(inner_.split(colour));
  }

 private:
  static ConstTensor as_tensor(std::span<const std::int64_t> values) {
    return {values.data(), {static_cast<std::int64_t>(values.size())}, Dtype::i64};
  }

  void agree(Verb verb) { agree(Call{++number_, static_cast<std::int64_t>(verb), kNone, kNone, 0}); }

  void agree(Verb verb, ConstTensor tensor, std::int64_t root = kNone) {
    Call mine{++number_, static_cast<std::int64_t>(verb), static_cast<std::int64_t>(tensor.dtype), root,
              tensor.shape.axes()};
    for (int axis = 0; axis < tensor.shape.axes(); ++axis)
      mine[5 + static_cast<std::size_t>(axis)] = tensor.shape[axis];
    agree(mine);
  }

  // Every rank sees the same list of calls, so all of them come to the same verdict.
  void agree(const Call& mine) {
    constexpr auto words = static_cast<std::int64_t>(std::tuple_size_v<Call>);
    inner_.all_gather({mine.data(), {words}, Dtype::i64}, {calls_.data(), {size(), words}, Dtype::i64});
    for (std::size_t other = 1; other < calls_.size(); ++other) {
      VITRAIL_EXPECT(calls_[other] == calls_[0], ExitCode::other,
                     text("rank 0 calls ", described(calls_[0]), ", but rank ", other, " calls ",
                          described(calls_[other]), " on the same communicator of ", size(), " ranks"),
                     "all ranks must call the same collectives in the same order with the same shapes and dtypes",
                     "This is a bug: please report it with the command and the log");
    }
  }

  std::unique_ptr<Communicator> owned_;  // set when this is a part of a split
  Communicator& inner_;
  std::int64_t number_ = 0;
  std::vector<Call> calls_;
};

}  // namespace

std::unique_ptr<Communicator> make_checked_communicator(Communicator& inner) {
  return std::make_unique<CheckedCommunicator>(inner);
}

}  // namespace vitrail
