#include "ops/cpu/training_kernels.hpp"

#include <cmath>
#include <limits>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/cpu/training_kernels.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "ops/cpu/vector_math-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace vitrail::cpu::HWY_NAMESPACE {
namespace {

// loss = sum y (lse - a) = lse * sum y - sum y a would cancel; so the differences are summed.
float SoftmaxLoss(const float* logits, const float* targets, float scale, float* dlogits, std::int64_t classes) {
  constexpr float kLow = -std::numeric_limits<float>::infinity();
  Vector high = set(kLow);
  for_vectors(classes,
              [&](std::int64_t i, std::int64_t count) { high = hn::Max(high, load(logits + i, count, kLow)); });
  const float top = classes > 0 ? largest(high) : 0.0F;
  LongSum exps;
  LongSum weights;
  for_vectors(classes, [&](std::int64_t i, std::int64_t count) {
    exps.add(exp(hn::Sub(load(logits + i, count, kLow), set(top))));
    weights.add(load(targets + i, count));
  });
  const float all = exps.value();
  const Vector log_all = set(std::log(all));
  const Vector tops = set(top);
  const Vector softmax_scale = set(weights.value() / all);
  const Vector scales = set(scale);
  LongSum loss;
  for_vectors(classes, [&](std::int64_t i, std::int64_t count) {
    const Vector y = load(targets + i, count);
    const Vector away = hn::Sub(load(logits + i, count), tops);
    loss.add(hn::Mul(y, hn::Sub(log_all, away)));
    if (dlogits != nullptr) store(hn::Mul(scales, hn::MulSub(exp(away), softmax_scale, y)), dlogits + i, count);
  });
  return classes > 0 ? loss.value() : 0.0F;
}

/// log(1 + t) for 0 <= t <= 1: 2 artanh(t / (2 + t)), its series to s^15.
HWY_INLINE Vector log1p(Vector t) {
  const Vector s = hn::Div(t, hn::Add(t, set(2.0F)));
  const Vector s2 = hn::Mul(s, s);
  Vector series = set(1.0F / 15);
  series = hn::MulAdd(series, s2, set(1.0F / 13));
  series = hn::MulAdd(series, s2, set(1.0F / 11));
  series = hn::MulAdd(series, s2, set(1.0F / 9));
  series = hn::MulAdd(series, s2, set(1.0F / 7));
  series = hn::MulAdd(series, s2, set(1.0F / 5));
  series = hn::MulAdd(series, s2, set(1.0F / 3));
  const Vector twice = hn::Add(s, s);
  return hn::MulAdd(hn::Mul(series, s2), twice, twice);
}

// -[y log sig(a) + (1-y) log sig(-a)] = max(a, 0) - a y + log(1 + e^-|a|)
float SigmoidLoss(const float* logits, const float* targets, float scale, float* dlogits, std::int64_t classes) {
  const Vector scales = set(scale);
  LongSum loss;
  for_vectors(classes, [&](std::int64_t i, std::int64_t count) {
    const Vector a = load(logits + i, count, -128.0F);  // past the end: no loss
    const Vector y = load(targets + i, count);
    const Vector e = exp(hn::Neg(hn::Abs(a)));
    const Vector positive = hn::IfThenZeroElse(hn::Lt(a, zero()), a);
    loss.add(hn::Add(hn::NegMulAdd(a, y, positive), log1p(e)));
    if (dlogits == nullptr) return;
    const Vector larger = hn::Div(set(1.0F), hn::Add(e, set(1.0F)));  // the sigmoid of |a|
    const Vector sigmoid = hn::IfThenElse(hn::Lt(a, zero()), hn::Mul(e, larger), larger);
    store(hn::Mul(scales, hn::Sub(sigmoid, y)), dlogits + i, count);
  });
  return loss.value();
}

double SquareSum(const float* x, std::int64_t n) {
  constexpr std::int64_t kSums = 32;     // as many chains as hide the latency of an addition
  constexpr std::int64_t kAhead = 1024;  // a page: what the hardware fetches by itself ends with the page it is in
  const hn::ScalableTag<double> d;
  const hn::Rebind<float, decltype(d)> half;
  constexpr auto kStep = static_cast<std::int64_t>(hn::MaxLanes(d));
  static_assert(kSums % kStep == 0);
  hn::Vec<decltype(d)> sums[kSums / kStep];
  for (auto& s : sums) s = hn::Zero(d);
  std::int64_t i = 0;
  for (; i + kSums <= n; i += kSums) {
    __builtin_prefetch(x + i + kAhead);
    __builtin_prefetch(x + i + kAhead + kSums / 2);
#pragma GCC unroll 32
    for (std::int64_t s = 0; s < kSums / kStep; ++s) {
      const auto wide = hn::PromoteTo(d, hn::LoadU(half, x + i + s * kStep));
      sums[s] = hn::MulAdd(wide, wide, sums[s]);  // exact products: a fused and an unfused sum are the same
    }
  }
  HWY_ALIGN double parts[kSums];
  for (std::int64_t s = 0; s < kSums / kStep; ++s) hn::Store(sums[s], d, parts + s * kStep);
  for (std::int64_t lane = 0; i < n; ++i, ++lane) parts[lane] += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  for (std::int64_t width = kSums / 2; width > 0; width /= 2) {
    for (std::int64_t s = 0; s < width; ++s) parts[s] += parts[s + width];
  }
  return parts[0];
}

void AdamW(const AdamWRun& a) {
  const Vector gradient_scale = set(a.gradient_scale);
  const Vector clip = set(a.clip_absolute);
  const Vector beta1 = set(a.beta1);
  const Vector rest1 = set(a.one_minus_beta1);
  const Vector beta2 = set(a.beta2);
  const Vector rest2 = set(a.one_minus_beta2);
  const Vector correction1 = set(a.correction1);
  const Vector correction2 = set(a.correction2);
  const Vector epsilon = set(a.epsilon);
  const Vector decay = set(a.decay);
  const Vector rate = set(a.learning_rate);
  for (std::int64_t row = 0; row < a.rows; ++row) {
    const float* const gradient = a.gradient + row * a.gradient_stride;
    float* const parameters = a.parameter + row * a.stride;
    float* const first = a.m + row * a.stride;
    float* const second = a.v + row * a.stride;
    for_vectors(a.n, [&](std::int64_t i, std::int64_t count) {
      Vector d = hn::Mul(load(gradient + i, count), gradient_scale);
      d = hn::Max(hn::Neg(clip), hn::Min(clip, d));  // NaN stays NaN
      const Vector m = hn::MulAdd(rest1, d, hn::Mul(beta1, load(first + i, count)));
      const Vector v = hn::MulAdd(rest2, hn::Mul(d, d), hn::Mul(beta2, load(second + i, count)));
      store(m, first + i, count);
      store(v, second + i, count);
      if (a.frozen) return;
      const Vector root = hn::Sqrt(hn::Mul(v, correction2));
      const Vector ratio = hn::Div(hn::Mul(m, correction1), hn::Add(root, epsilon));
      const Vector p = load(parameters + i, count);
      store(hn::NegMulAdd(rate, hn::MulAdd(decay, p, ratio), p), parameters + i, count);
    });
  }
}

bool Finite(const float* x, std::int64_t n) {
  const Floats d;
  Vector bad = zero();  // x - x is 0, or NaN where x is not finite
  for_vectors(n, [&](std::int64_t i, std::int64_t count) {
    const Vector value = load(x + i, count);
    bad = hn::Or(bad, hn::Sub(value, value));
  });
  return hn::AllTrue(d, hn::Eq(bad, zero()));
}

}  // namespace
}  // namespace vitrail::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace vitrail::cpu {

HWY_EXPORT(SoftmaxLoss);
HWY_EXPORT(SigmoidLoss);
HWY_EXPORT(SquareSum);
HWY_EXPORT(AdamW);
HWY_EXPORT(Finite);

float softmax_loss(const float* logits, const float* targets, float scale, float* dlogits, std::int64_t classes) {
  return HWY_DYNAMIC_DISPATCH(SoftmaxLoss)(logits, targets, scale, dlogits, classes);
}
float sigmoid_loss(const float* logits, const float* targets, float scale, float* dlogits, std::int64_t classes) {
  return HWY_DYNAMIC_DISPATCH(SigmoidLoss)(logits, targets, scale, dlogits, classes);
}
double square_sum(const float* x, std::int64_t n) { return HWY_DYNAMIC_DISPATCH(SquareSum)(x, n); }
void adamw_run(const AdamWRun& a) { HWY_DYNAMIC_DISPATCH(AdamW)(a); }
bool finite_run(const float* x, std::int64_t n) { return HWY_DYNAMIC_DISPATCH(Finite)(x, n); }

}  // namespace vitrail::cpu
#endif  // HWY_ONCE
