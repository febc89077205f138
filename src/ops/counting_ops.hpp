#pragma once
// Decorator: a back end that also counts, per verb, calls, seconds, FLOPs and bytes. Results are those of the inner
// back end. It costs two clock readings per call.

#include <vector>

#include "ops/verb_cost.hpp"

namespace vitrail {

struct VerbCount {
  std::string_view verb;
  std::int64_t calls = 0;
  double seconds = 0;
  double flops = 0;
  double bytes = 0;
};

class CountingOps final : public Ops {
 public:
  /// `inner` must outlive it.
  explicit CountingOps(Ops& inner);

  [[nodiscard]] std::string_view name() const noexcept override { return inner_.name(); }
  [[nodiscard]] Dtype real() const noexcept override { return inner_.real(); }
  [[nodiscard]] Precision precision() const noexcept override { return inner_.precision(); }
  [[nodiscard]] Dtype stored() const noexcept override { return inner_.stored(); }
  void seal() override { inner_.seal(); }

  /// One entry per verb, in the order of VITRAIL_VERBS, those never called included.
  [[nodiscard]] const std::vector<VerbCount>& counts() const noexcept { return counts_; }
  /// Starts again from 0.
  void reset();

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

  Ops& inner_;
  std::vector<VerbCount> counts_;
};

}  // namespace vitrail
