#pragma once
// What the reference needs of numbers that may be complex, and the summation tree over leaves.

#include <cmath>
#include <complex>
#include <cstdint>
#include <numbers>
#include <vector>

#include "base/bf16.hpp"

namespace vitrail::reference {

/// Branches and comparisons look at this.
inline double real_part(double x) { return x; }
inline double real_part(std::complex<double> x) { return x.real(); }

/// erfc(a + ib) = erfc(a) - ib * 2/sqrt(pi) * exp(-a^2) to first order in b: exact for a complex step.
inline double erfc(double x) { return std::erfc(x); }
inline std::complex<double> erfc(std::complex<double> x) {
  const double slope = -2.0 * std::numbers::inv_sqrtpi * std::exp(-x.real() * x.real());
  return {std::erfc(x.real()), slope * x.imag()};
}

/// log(1 + x), accurate for small x; to first order in the imaginary part.
inline double log1p(double x) { return std::log1p(x); }
inline std::complex<double> log1p(std::complex<double> x) {
  return {std::log1p(x.real()), x.imag() / (1.0 + x.real())};
}

/// x brought into -limit .. limit
template <class T>
T clamp(T x, double limit) {
  if (real_part(x) > limit) return limit;
  if (real_part(x) < -limit) return -limit;
  return x;
}

/// To bfloat16; a step function, so the derivative is 0.
inline double rounded(double x) { return round_to_bf16(x); }
inline std::complex<double> rounded(std::complex<double> x) { return round_to_bf16(x.real()); }

inline bool is_finite(double x) { return std::isfinite(x); }
inline bool is_finite(std::complex<double> x) { return std::isfinite(x.real()) && std::isfinite(x.imag()); }

/// Index of the largest of x[0 .. n-1], the first of equals; n >= 1.
template <class T>
std::int64_t index_of_largest(const T* x, std::int64_t n) {
  std::int64_t best = 0;
  for (std::int64_t i = 1; i < n; ++i) {
    if (real_part(x[i]) > real_part(x[best])) best = i;
  }
  return best;
}

/// log of sum of exp(x[i]), n >= 1: the largest is taken out first, so that exp does not overflow.
template <class T>
T log_sum_exp(const T* x, std::int64_t n) {
  const T largest = x[index_of_largest(x, n)];
  T sum{};
  for (std::int64_t i = 0; i < n; ++i) sum += std::exp(x[i] - largest);
  return largest + std::log(sum);
}

/// p[i] = exp(x[i]) / sum of exp(x)
template <class T>
void softmax(const T* x, T* p, std::int64_t n) {
  const T largest = x[index_of_largest(x, n)];
  T sum{};
  for (std::int64_t i = 0; i < n; ++i) {
    p[i] = std::exp(x[i] - largest);
    sum += p[i];
  }
  for (std::int64_t i = 0; i < n; ++i) p[i] /= sum;
}

/// The sum of the gradients of leaves first .. first+count-1 over the binary tree ((0 + 1) + (2 + 3)) + ...;
/// leaf_gradient(leaf, out) overwrites out[0 .. n-1] with the gradient of one leaf. count is a power of two.
template <class T, class LeafGradient>
void sum_over_leaves(std::int64_t first, std::int64_t count, T* sum, std::int64_t n,
                     const LeafGradient& leaf_gradient) {
  if (count == 1) {
    leaf_gradient(first, sum);
    return;
  }
  sum_over_leaves(first, count / 2, sum, n, leaf_gradient);
  std::vector<T> later(static_cast<std::size_t>(n));
  sum_over_leaves(first + count / 2, count / 2, later.data(), n, leaf_gradient);
  for (std::int64_t i = 0; i < n; ++i) sum[i] += later[static_cast<std::size_t>(i)];
}

}  // namespace vitrail::reference
