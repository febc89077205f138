#pragma once
// Vector kernels of random numbers (base/philox.hpp). A number has the same bits wherever a run begins.

#include <cstdint>

#include "base/philox.hpp"

namespace vitrail::cpu {

/// y[i] = scale * value first + i, computed in double and rounded once.
struct RandomRun {
  Philox random;
  std::uint64_t first;
  double scale;
  float* y;
  std::int64_t n;
};
/// Of values 2 u - 1.
void uniform_run(const RandomRun& a);
/// Of normal numbers.
void normal_run(const RandomRun& a);
/// The same, but NaN where the number lies beyond +-limit.
void truncated_normal_run(const RandomRun& a, double limit);

}  // namespace vitrail::cpu
