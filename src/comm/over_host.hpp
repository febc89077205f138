#pragma once
// What communicators for device memory share: another communicator carries what lies in host memory.

#include <memory>
#include <utility>

#include "comm/communicator.hpp"

namespace vitrail {

/// Barriers and integers go through `inner`; a subclass adds the verbs on tensors, and hands those of host memory on.
class OverHostCommunicator : public Communicator {
 public:
  /// `inner` outlives it.
  explicit OverHostCommunicator(Communicator& inner) : inner_(inner) {}
  /// Keeps `inner`: a part of a split.
  explicit OverHostCommunicator(std::unique_ptr<Communicator> inner) : owned_(std::move(inner)), inner_(*owned_) {}

  [[nodiscard]] int rank() const noexcept final { return inner_.rank(); }
  [[nodiscard]] int size() const noexcept final { return inner_.size(); }
  void barrier() final { inner_.barrier(); }
  void all_min(std::span<std::int64_t> values) final { inner_.all_min(values); }
  void all_max(std::span<std::int64_t> values) final { inner_.all_max(values); }
  void all_sum(std::span<std::int64_t> values) final { inner_.all_sum(values); }

 protected:
  [[nodiscard]] Communicator& inner() noexcept { return inner_; }

 private:
  std::unique_ptr<Communicator> owned_;
  Communicator& inner_;
};

}  // namespace vitrail
