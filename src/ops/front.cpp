// The checked verbs: arguments, then the back end, which is marked as what this rank does.

#include "ops/ops.hpp"

namespace vitrail {

#define VITRAIL_FRONT(verb, Arguments)                      \
  void Ops::verb(const Arguments& a) {                      \
    a.check();                                              \
    activity_->during(#verb, [this, &a] { this->run(a); }); \
  }
VITRAIL_VERBS(VITRAIL_FRONT)
#undef VITRAIL_FRONT

}  // namespace vitrail
