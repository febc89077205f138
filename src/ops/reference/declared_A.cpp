#include <complex>

#include "base/error.hpp"
#include "ops/reference/reference.hpp"

namespace vitrail::reference {
template <class T>
void dropout(const Dropout&) {
  fail(ExitCode::other, {"Dropout", "declared, not built yet", ""});
}
VITRAIL_REFERENCE_VERB(dropout, Dropout)
template <class T>
void mean_tokens_forward(const MeanTokensForward&) {
  fail(ExitCode::other, {"MeanTokensForward", "declared, not built yet", ""});
}
VITRAIL_REFERENCE_VERB(mean_tokens_forward, MeanTokensForward)
template <class T>
void mean_tokens_backward(const MeanTokensBackward&) {
  fail(ExitCode::other, {"MeanTokensBackward", "declared, not built yet", ""});
}
VITRAIL_REFERENCE_VERB(mean_tokens_backward, MeanTokensBackward)
template <class T>
void to_bf16(const ToBf16&) {
  fail(ExitCode::other, {"ToBf16", "declared, not built yet", ""});
}
VITRAIL_REFERENCE_VERB(to_bf16, ToBf16)
template <class T>
void from_bf16(const FromBf16&) {
  fail(ExitCode::other, {"FromBf16", "declared, not built yet", ""});
}
VITRAIL_REFERENCE_VERB(from_bf16, FromBf16)
template <class T>
void mix_images(const MixImages&) {
  fail(ExitCode::other, {"MixImages", "declared, not built yet", ""});
}
VITRAIL_REFERENCE_VERB(mix_images, MixImages)
template <class T>
void running_average(const RunningAverage&) {
  fail(ExitCode::other, {"RunningAverage", "declared, not built yet", ""});
}
VITRAIL_REFERENCE_VERB(running_average, RunningAverage)
}  // namespace vitrail::reference
