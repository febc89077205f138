#pragma once
// The library's own way to spread one large matrix product over threads. No verb uses it (its bits depend on the
// threads): it is the ceiling that the verbs are measured against.

#include <cstdint>

namespace vitrail::cpu {

/// c = a b, all of them side x side, row-major, f32, by oneDNN on `threads` threads.
void whole_gemm(int threads, std::int64_t side, const float* a, const float* b, float* c);

}  // namespace vitrail::cpu
