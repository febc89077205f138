#include "ops/cpu/whole_gemm.hpp"

#include <omp.h>

#include "ops/cpu/gemm.hpp"

namespace vitrail::cpu {

void whole_gemm(int threads, std::int64_t side, const float* a, const float* b, float* c) {
  const int before = omp_get_max_threads();
  omp_set_num_threads(threads);
  gemm(side, side, side, {a, side}, {b, side}, Into::overwrite, c, side);
  omp_set_num_threads(before);
}

}  // namespace vitrail::cpu
