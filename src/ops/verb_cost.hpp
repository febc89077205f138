#pragma once
// What a call of a verb needs at least: the numerator of GFLOP/s and GB/s.
//
// FLOPs: two per multiply-add of matrix products, those of attention included; 0 for everything else (norms, softmax,
// GELU, routing, update, and products that are computed again in a backward pass). This is the convention of
// forward_flops_per_image (model/config.hpp), but counted on the call's real shapes: expert rows are slots, rounded up
// and possibly empty, and a gradient that is left out (dx of the patch embedding) counts nothing.
// Bytes: every argument once for reading and once for writing, as if nothing stayed in a cache between two calls and
// everything did inside one. Rows that are picked by index count as if every assignment were kept.
// Exponentials: those of attention's probabilities, once per call; 0 for everything else, where bytes or FLOPs bind.

#include "ops/ops.hpp"

namespace vitrail {

struct VerbCost {
  double flops = 0;
  double bytes = 0;
  double exponentials = 0;
};

#define VITRAIL_VERB_COST(verb, Arguments) VerbCost cost_of(const Arguments& a);
VITRAIL_VERBS(VITRAIL_VERB_COST)
#undef VITRAIL_VERB_COST

}  // namespace vitrail
