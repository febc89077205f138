#include <complex>

#include "base/error.hpp"
#include "ops/reference/reference.hpp"

namespace vitrail::reference {
template <class T>
void route_as_given(const RouteAsGiven&) {
  fail(ExitCode::other, {"RouteAsGiven", "declared, not built yet", ""});
}
VITRAIL_REFERENCE_VERB(route_as_given, RouteAsGiven)
template <class T>
void route_experts_choice(const RouteExpertsChoice&) {
  fail(ExitCode::other, {"RouteExpertsChoice", "declared, not built yet", ""});
}
VITRAIL_REFERENCE_VERB(route_experts_choice, RouteExpertsChoice)
template <class T>
void shuffle_experts(const ShuffleExperts&) {
  fail(ExitCode::other, {"ShuffleExperts", "declared, not built yet", ""});
}
VITRAIL_REFERENCE_VERB(shuffle_experts, ShuffleExperts)
template <class T>
void normalize_gates_forward(const NormalizeGatesForward&) {
  fail(ExitCode::other, {"NormalizeGatesForward", "declared, not built yet", ""});
}
VITRAIL_REFERENCE_VERB(normalize_gates_forward, NormalizeGatesForward)
template <class T>
void normalize_gates_backward(const NormalizeGatesBackward&) {
  fail(ExitCode::other, {"NormalizeGatesBackward", "declared, not built yet", ""});
}
VITRAIL_REFERENCE_VERB(normalize_gates_backward, NormalizeGatesBackward)
template <class T>
void soft_router_forward(const SoftRouterForward&) {
  fail(ExitCode::other, {"SoftRouterForward", "declared, not built yet", ""});
}
VITRAIL_REFERENCE_VERB(soft_router_forward, SoftRouterForward)
template <class T>
void soft_router_backward(const SoftRouterBackward&) {
  fail(ExitCode::other, {"SoftRouterBackward", "declared, not built yet", ""});
}
VITRAIL_REFERENCE_VERB(soft_router_backward, SoftRouterBackward)
template <class T>
void mix_tokens_forward(const MixTokensForward&) {
  fail(ExitCode::other, {"MixTokensForward", "declared, not built yet", ""});
}
VITRAIL_REFERENCE_VERB(mix_tokens_forward, MixTokensForward)
template <class T>
void mix_tokens_backward(const MixTokensBackward&) {
  fail(ExitCode::other, {"MixTokensBackward", "declared, not built yet", ""});
}
VITRAIL_REFERENCE_VERB(mix_tokens_backward, MixTokensBackward)
template <class T>
void mix_slots_forward(const MixSlotsForward&) {
  fail(ExitCode::other, {"MixSlotsForward", "declared, not built yet", ""});
}
VITRAIL_REFERENCE_VERB(mix_slots_forward, MixSlotsForward)
template <class T>
void mix_slots_backward(const MixSlotsBackward&) {
  fail(ExitCode::other, {"MixSlotsBackward", "declared, not built yet", ""});
}
VITRAIL_REFERENCE_VERB(mix_slots_backward, MixSlotsBackward)
}  // namespace vitrail::reference
