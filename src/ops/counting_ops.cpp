#include "ops/counting_ops.hpp"

#include "base/timer.hpp"

namespace vitrail {

CountingOps::CountingOps(Ops& inner) : inner_(inner) { reset(); }

void CountingOps::reset() {
  counts_ = {
#define VITRAIL_NAMED(name, Arguments) VerbCount{.verb = #name},
      VITRAIL_VERBS(VITRAIL_NAMED)
#undef VITRAIL_NAMED
  };
}

template <class Arguments>
void CountingOps::count(Verb verb, const Arguments& a) {
  const Stopwatch clock;
  inner_.run(a);  // the shapes were checked at our own front
  const double seconds = clock.seconds();
  const VerbCost cost = cost_of(a);
  VerbCount& entry = counts_[static_cast<std::size_t>(verb)];
  ++entry.calls;
  entry.seconds += seconds;
  entry.flops += cost.flops;
  entry.bytes += cost.bytes;
}

#define VITRAIL_COUNTED(name, Arguments) \
  void CountingOps::run(const Arguments& a) { count(Verb::name, a); }
VITRAIL_VERBS(VITRAIL_COUNTED)
#undef VITRAIL_COUNTED

}  // namespace vitrail
