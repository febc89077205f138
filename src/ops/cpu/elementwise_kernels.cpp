#include "ops/cpu/elementwise_kernels.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/cpu/elementwise_kernels.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "ops/cpu/vector_math-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace vitrail::cpu::HWY_NAMESPACE {
namespace {

void AddScaled(const float* factors, const float* x, const float* residual, float* y, std::int64_t n) {
  for_vectors(n, [&](std::int64_t i, std::int64_t count) {
    Vector value = load(factors + i, count);
    if (x != nullptr) value = hn::Mul(value, load(x + i, count));
    if (residual != nullptr) value = hn::Add(load(residual + i, count), value);
    store(value, y + i, count);
  });
}

void ToBf16Run(const float* x, Bf16* y, std::int64_t n) {
  std::int64_t i = 0;
#if HWY_TARGET != HWY_SCALAR
  const hn::RebindToUnsigned<Floats> d;
  const hn::Rebind<std::uint16_t, Floats> half;
  const auto one = hn::Set(d, 1);
  for (; i + lanes() <= n; i += lanes()) {
    const Vector value = hn::LoadU(Floats(), x + i);
    const auto bits = hn::BitCast(d, value);
    const auto upper = hn::ShiftRight<16>(bits);
    const auto nearest = hn::Add(bits, hn::Add(hn::Set(d, 0x7FFF), hn::And(upper, one)));
    const auto quiet = hn::Or(bits, hn::Set(d, 0x400000));  // NaN stays one, even if its lower half was all there was
    const auto nan = hn::RebindMask(d, hn::IsNaN(value));
    const auto rounded = hn::ShiftRight<16>(hn::IfThenElse(nan, quiet, nearest));
    hn::StoreU(hn::TruncateTo(half, rounded), half, reinterpret_cast<std::uint16_t*>(y + i));
  }
#endif
  for (; i < n; ++i) y[i] = to_bf16(x[i]);
}

void FromBf16Run(const Bf16* x, const float* residual, float* y, std::int64_t n) {
  std::int64_t i = 0;
#if HWY_TARGET != HWY_SCALAR
  const Floats f;
  const hn::RebindToUnsigned<Floats> d;
  const hn::Rebind<std::uint16_t, Floats> half;
  for (; i + lanes() <= n; i += lanes()) {
    const auto upper = hn::PromoteTo(d, hn::LoadU(half, reinterpret_cast<const std::uint16_t*>(x + i)));
    Vector value = hn::BitCast(f, hn::ShiftLeft<16>(upper));
    if (residual != nullptr) value = hn::Add(hn::LoadU(f, residual + i), value);
    hn::StoreU(value, f, y + i);
  }
#endif
  for (; i < n; ++i) y[i] = residual != nullptr ? residual[i] + to_float(x[i]) : to_float(x[i]);
}

void ScaleAndAdd(float before, float weight, const float* x, float* y, std::int64_t n) {
  const Vector befores = set(before);
  const Vector weights = set(weight);
  for_vectors(n, [&](std::int64_t i, std::int64_t count) {
    store(hn::MulAdd(weights, load(x + i, count), hn::Mul(befores, load(y + i, count))), y + i, count);
  });
}

}  // namespace
}  // namespace vitrail::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace vitrail::cpu {

HWY_EXPORT(AddScaled);
HWY_EXPORT(ToBf16Run);
HWY_EXPORT(FromBf16Run);
HWY_EXPORT(ScaleAndAdd);

void dropout_factors(const DropoutMask& mask, std::uint64_t first, std::int64_t count, float* factors) {
  mask.factors(first, count, factors);
}
void add_scaled(const float* factors, const float* x, const float* residual, float* y, std::int64_t n) {
  HWY_DYNAMIC_DISPATCH(AddScaled)(factors, x, residual, y, n);
}
void to_bf16_run(const float* x, Bf16* y, std::int64_t n) { HWY_DYNAMIC_DISPATCH(ToBf16Run)(x, y, n); }
void from_bf16_run(const Bf16* x, const float* residual, float* y, std::int64_t n) {
  HWY_DYNAMIC_DISPATCH(FromBf16Run)(x, residual, y, n);
}
void scale_and_add(float before, float weight, const float* x, float* y, std::int64_t n) {
  HWY_DYNAMIC_DISPATCH(ScaleAndAdd)(before, weight, x, y, n);
}

}  // namespace vitrail::cpu
#endif  // HWY_ONCE
