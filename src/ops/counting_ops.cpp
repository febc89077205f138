#include "ops/counting_ops.hpp"

namespace vitrail {

CountingOps::CountingOps(Ops& inner, Device& device)
    : inner_(inner), device_(device), clock_(make_queue_clock(device)) {
  watch(inner.activity());
  reset();
}

void CountingOps::reset() {
  open_.clear();
  clock_->reset();
  counts_ = {
#define VITRAIL_NAMED(name, Arguments) VerbCount{.verb = #name},
      VITRAIL_VERBS(VITRAIL_NAMED)
#undef VITRAIL_NAMED
  };
}

const std::vector<VerbCount>& CountingOps::counts() {
  device_.synchronize();
  for (const Call& call : open_) {
    counts_[static_cast<std::size_t>(call.verb)].seconds += clock_->seconds(call.from, call.to);
  }
  open_.clear();
  clock_->reset();
  return counts_;
}

template <class Arguments>
void CountingOps::count(Verb verb, const Arguments& a) {
  if (!counted_) return inner_.run(a);  // the shapes were checked at our own front
  const std::size_t from = clock_->read();
  inner_.run(a);
  open_.push_back({verb, from, clock_->read()});
  const VerbCost cost = cost_of(a);
  VerbCount& entry = counts_[static_cast<std::size_t>(verb)];
  ++entry.calls;
  entry.flops += cost.flops;
  entry.bytes += cost.bytes;
  entry.exponentials += cost.exponentials;
}

#define VITRAIL_COUNTED(name, Arguments) \
  void CountingOps::run(const Arguments& a) { count(Verb::name, a); }
VITRAIL_VERBS(VITRAIL_COUNTED)
#undef VITRAIL_COUNTED

}  // namespace vitrail
