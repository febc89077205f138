// The checked verbs: arguments, then the back end, which is marked as what this rank does.

#include "ops/ops.hpp"

namespace vitrail {

namespace {
/// What not every back end can do.
template <class Arguments>
void expect_able(const Ops& /*ops*/, const Arguments& /*a*/) {}
void expect_able(const Ops& ops, const MlpBackward& a) {
  if (a.update1 == nullptr && a.update2 == nullptr) return;
  VITRAIL_EXPECT(ops.updates_early(a.w1.shape[1], a.w1.shape[2]), ExitCode::other,
                 text("an early update of weights ", a.w1.shape.str()),
                 text("the ", ops.name(), " back end makes none of this shape"), "This is a bug in the calling layer");
}
}  // namespace

#define VITRAIL_FRONT(verb, Arguments)                      \
  void Ops::verb(const Arguments& a) {                      \
    a.check();                                              \
    expect_able(*this, a);                                  \
    activity_->during(#verb, [this, &a] { this->run(a); }); \
  }
VITRAIL_VERBS(VITRAIL_FRONT)
#undef VITRAIL_FRONT

}  // namespace vitrail
