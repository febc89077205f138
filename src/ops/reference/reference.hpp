#pragma once
// The reference back end: every verb as the plainest loops, T = double or std::complex<double>. This code is the
// specification of the verbs; a fast back end is right when it agrees. Complex numbers serve derivatives by complex
// step: f(x + ih) = f(x) + ih f'(x), so nothing is ever conjugated and branches look at the real part alone.
//
// Unlike other back ends it allocates small buffers as it goes.

#include "ops/ops.hpp"

namespace vitrail::reference {

#define VITRAIL_DECLARE(verb, Arguments) \
  template <class T>                     \
  void verb(const Arguments& a);
VITRAIL_VERBS(VITRAIL_DECLARE)
#undef VITRAIL_DECLARE

}  // namespace vitrail::reference

/// At the end of the file that defines a verb.
#define VITRAIL_REFERENCE_VERB(verb, Arguments) \
  template void verb<double>(const Arguments&); \
  template void verb<std::complex<double>>(const Arguments&);
