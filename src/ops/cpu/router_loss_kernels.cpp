#include "ops/cpu/router_loss_kernels.hpp"

#include <algorithm>
#include <cmath>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/cpu/router_loss_kernels.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "ops/cpu/double_math-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace vitrail::cpu::HWY_NAMESPACE {
namespace {

#if HWY_TARGET == HWY_SCALAR

void Erfc(const double* x, const float* z, double scale, double* y, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) y[i] = std::erfc((x[i] - static_cast<double>(z[i])) * scale);
}
void Bell(const double* x, const float* z, double scale, double* y, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) {
    const double r = (x[i] - static_cast<double>(z[i])) * scale;
    y[i] = std::exp(-r * r);
  }
}
void Exp(const double* x, const float* z, double* y, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) y[i] = std::exp(static_cast<double>(z[i]) - x[i]);
}
void Log(const double* x, double* y, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) y[i] = std::log(x[i]);
}

#else

using HalfFloats = hn::Rebind<float, Doubles>;

/// y[i] = function(x[i], z[i]); z may be nullptr. The last, shorter vector goes through a full one.
template <class Function>
HWY_INLINE void for_doubles(const double* x, const float* z, double* y, std::int64_t n, const Function& function) {
  const Doubles d;
  const HalfFloats half;
  const auto step = static_cast<std::int64_t>(hn::Lanes(d));
  const auto widened = [&](const float* p) { return hn::PromoteTo(d, hn::LoadU(half, p)); };
  std::int64_t i = 0;
  for (; i + step <= n; i += step)
    hn::StoreU(function(hn::LoadU(d, x + i), z == nullptr ? hn::Zero(d) : widened(z + i)), d, y + i);
  if (i == n) return;
  HWY_ALIGN double last_x[HWY_MAX_BYTES / sizeof(double)];
  HWY_ALIGN float last_z[HWY_MAX_BYTES / sizeof(double)];
  std::fill_n(last_x, step, 1.0);
  std::fill_n(last_z, step, 1.0F);
  std::copy(x + i, x + n, last_x);
  if (z != nullptr) std::copy(z + i, z + n, last_z);
  hn::Store(function(hn::Load(d, last_x), widened(last_z)), d, last_x);
  std::copy_n(last_x, n - i, y + i);
}

void Erfc(const double* x, const float* z, double scale, double* y, std::int64_t n) {
  for_doubles(x, z, y, n, [&](Double a, Double b) { return erfc(hn::Mul(hn::Sub(a, b), set(scale))); });
}
void Bell(const double* x, const float* z, double scale, double* y, std::int64_t n) {
  for_doubles(x, z, y, n, [&](Double a, Double b) {
    const Double r = hn::Mul(hn::Sub(a, b), set(scale));
    return exp(hn::Neg(hn::Mul(r, r)));
  });
}
void Exp(const double* x, const float* z, double* y, std::int64_t n) {
  for_doubles(x, z, y, n, [&](Double a, Double b) { return exp(hn::Sub(b, a)); });
}
void Log(const double* x, double* y, std::int64_t n) {
  for_doubles(x, nullptr, y, n, [&](Double a, Double) { return hn::Add(log(a), hn::Sub(a, a)); });
}

#endif

}  // namespace
}  // namespace vitrail::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace vitrail::cpu {

HWY_EXPORT(Erfc);
HWY_EXPORT(Bell);
HWY_EXPORT(Exp);
HWY_EXPORT(Log);

void erfc_run(const double* x, const float* z, double scale, double* y, std::int64_t n) {
  HWY_DYNAMIC_DISPATCH(Erfc)(x, z, scale, y, n);
}
void bell_run(const double* x, const float* z, double scale, double* y, std::int64_t n) {
  HWY_DYNAMIC_DISPATCH(Bell)(x, z, scale, y, n);
}
void exp_run(const double* x, const float* z, double* y, std::int64_t n) { HWY_DYNAMIC_DISPATCH(Exp)(x, z, y, n); }
void log_run(const double* x, double* y, std::int64_t n) { HWY_DYNAMIC_DISPATCH(Log)(x, y, n); }

}  // namespace vitrail::cpu
#endif  // HWY_ONCE
