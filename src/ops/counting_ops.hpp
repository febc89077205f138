#pragma once
// Decorator: a back end that also counts, per verb, calls, seconds, FLOPs and bytes. Results are those of the inner
// back end, and it marks the same Activity. It costs two clock readings per call, in the queue of the device: nothing
// waits for the work.

#include <memory>
#include <vector>

#include "device/queue_clock.hpp"
#include "ops/verb_cost.hpp"

namespace vitrail {

struct VerbCount {
  std::string_view verb;
  std::int64_t calls = 0;
  double seconds = 0;
  double flops = 0;
  double bytes = 0;
  double exponentials = 0;
};

class CountingOps final : public Ops {
 public:
  /// `inner` computes in the queue of `device`; both must outlive it.
  CountingOps(Ops& inner, Device& device);

  [[nodiscard]] std::string_view name() const noexcept override { return inner_.name(); }
  [[nodiscard]] Dtype real() const noexcept override { return inner_.real(); }
  [[nodiscard]] Precision precision() const noexcept override { return inner_.precision(); }
  [[nodiscard]] Dtype stored() const noexcept override { return inner_.stored(); }
  [[nodiscard]] Dtype stored_weights() const noexcept override { return inner_.stored_weights(); }
  [[nodiscard]] bool updates_early(std::int64_t in, std::int64_t out) const noexcept override {
    return inner_.updates_early(in, out);
  }
  void seal() override { inner_.seal(); }
  [[nodiscard]] std::int64_t workspace_bytes() const noexcept override { return inner_.workspace_bytes(); }

  /// One entry per verb, in the order of VITRAIL_VERBS, those never called included. Waits for the device.
  [[nodiscard]] const std::vector<VerbCount>& counts();
  /// Starts again from 0.
  void reset();
  /// Whether calls are counted from here on. They cannot be while work is recorded as a graph.
  void count_calls(bool counted) noexcept { counted_ = counted; }

#define VITRAIL_COUNTED(verb, Arguments) void run(const Arguments& a) override;
  VITRAIL_VERBS(VITRAIL_COUNTED)
#undef VITRAIL_COUNTED

 private:
  enum class Verb : std::size_t {
#define VITRAIL_NUMBER(name, Arguments) name,
    VITRAIL_VERBS(VITRAIL_NUMBER)
#undef VITRAIL_NUMBER
  };
  template <class Arguments>
  void count(Verb verb, const Arguments& a);

  struct Call {
    Verb verb;
    std::size_t from, to;  // readings of the clock
  };

  Ops& inner_;
  Device& device_;
  std::unique_ptr<QueueClock> clock_;
  bool counted_ = true;
  std::vector<VerbCount> counts_;
  std::vector<Call> open_;  // those whose time is not in counts_ yet
};

}  // namespace vitrail
