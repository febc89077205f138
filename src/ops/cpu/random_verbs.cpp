// Random numbers and initial values.

#include <algorithm>
#include <cmath>

#include "ops/cpu/cpu_ops.hpp"
#include "ops/cpu/parallel.hpp"
#include "ops/cpu/random_kernels.hpp"

namespace vitrail::cpu {

namespace {

constexpr std::int64_t kNormals = 1 << 11;  // of a unit of work
// Initial values of a unit: a huge page of them, or threads that share one would both clear it.
constexpr std::int64_t kInitialValues = 1 << 19;

/// The first number in [-2, 2] of the steps after 0.
double drawn_again(const InitialValues& a, std::uint64_t index) {
  for (std::uint64_t step = 1;; ++step) {
    const double x = Philox(a.seed, Purpose::initialisation, step, a.tensor).normal(index);
    if (std::abs(x) <= InitialValues::kTruncatedAt) return x;
  }
}

/// y[i] = scale * number first + i of the tensor.
void draw(const InitialValues& a, std::uint64_t first, float* y, std::int64_t n) {
  const Philox random(a.seed, Purpose::initialisation, 0, a.tensor);
  switch (a.number) {
    case InitialValues::Number::one:
      std::fill_n(y, n, static_cast<float>(a.scale));
      break;
    case InitialValues::Number::uniform:
      uniform_run({random, first, a.scale, y, n});
      break;
    case InitialValues::Number::normal:
      normal_run({random, first, a.scale, y, n});
      break;
    case InitialValues::Number::truncated_normal:
      truncated_normal_run({random, first, a.scale, y, n}, InitialValues::kTruncatedAt);
      for (std::int64_t i = 0; i < n; ++i) {
        if (std::isnan(y[i]))
          y[i] = static_cast<float>(a.scale * drawn_again(a, first + static_cast<std::uint64_t>(i)));
      }
      break;
  }
}

}  // namespace

void CpuOps::run(const RandomNormal& a) {
  const Philox random(a.seed, a.purpose, a.step, a.layer);
  for_each_piece(threads_, a.y.elements(), kNormals, [&](std::int64_t begin, std::int64_t end) {
    normal_run({random, a.first_index + static_cast<std::uint64_t>(begin), 1.0, a.y.as<float>() + begin, end - begin});
  });
}

void CpuOps::run(const InitialValues& a) {
  const std::int64_t copies = a.y.shape[0];
  const std::int64_t n = a.y.shape[1];
  if (copies == 0) return;
  for_each_piece(threads_, n, kInitialValues, [&](std::int64_t begin, std::int64_t end) {
    float* const y = a.y.as<float>() + begin;
    draw(a, a.first_index + static_cast<std::uint64_t>(begin), y, end - begin);
    for (std::int64_t copy = 1; copy < copies; ++copy) std::copy_n(y, end - begin, y + copy * n);
  });
}

}  // namespace vitrail::cpu
