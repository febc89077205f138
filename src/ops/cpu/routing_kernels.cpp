#include "ops/cpu/routing_kernels.hpp"

#include <algorithm>
#include <limits>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/cpu/routing_kernels.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "ops/cpu/vector_math-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace vitrail::cpu::HWY_NAMESPACE {
namespace {

void SoftmaxRows(const float* x, const float* noise, float sigma, float* p, std::int64_t rows, std::int64_t n) {
  constexpr float kLow = -std::numeric_limits<float>::infinity();
  const Vector sigmas = set(sigma);
  for (std::int64_t row = 0; row < rows; ++row) {
    const std::int64_t first = row * n;
    const auto logits = [&](std::int64_t i, std::int64_t count) {
      const Vector z = load(x + first + i, count, kLow);
      return noise == nullptr ? z : hn::MulAdd(sigmas, load(noise + first + i, count), z);
    };
    Vector high = set(kLow);
    for_vectors(n, [&](std::int64_t i, std::int64_t count) { high = hn::Max(high, logits(i, count)); });
    const Vector top = set(largest(high));
    Vector total = zero();
    for_vectors(n, [&](std::int64_t i, std::int64_t count) {
      const Vector e = exp(hn::Sub(logits(i, count), top));  // lanes past the end: e^-inf = 0
      total = hn::Add(total, e);
      store(e, p + first + i, count);
    });
    const Vector scale = set(1.0F / sum(total));
    for_vectors(n, [&](std::int64_t i, std::int64_t count) {
      store(hn::Mul(load(p + first + i, count), scale), p + first + i, count);
    });
  }
}

template <class X, class Y>
void gather(const GatherRun& a, const X* from, Y* to) {
  for (std::int64_t row = a.begin; row < a.end; ++row) {
    Y* const y = to + row * a.width;
    const std::int64_t assignment = a.source[row];
    if (assignment < 0) {
      std::fill_n(y, a.width, Y{});
      continue;
    }
    copy_elements(from + assignment / a.choices * a.width, a.width, y);
  }
}

void Gather(const GatherRun& a) {
  with_elements(a.x, [&](const auto* x) { with_elements(a.y, [&](auto* y) { gather(a, x, y); }); });
}

template <class O, class Y>
void combine(const CombineRun& a, const O* from, Y* to) {
  for (std::int64_t token = a.begin; token < a.end; ++token) {
    const std::int32_t* const row = a.row + token * a.choices;
    const float* const gate = a.gate != nullptr ? a.gate + token * a.choices : nullptr;
    const std::int64_t first = token * a.width;
    for_vectors(a.width, [&](std::int64_t i, std::int64_t count) {
      Vector y = a.residual != nullptr ? load(a.residual + first + i, count) : zero();
      for (std::int64_t j = 0; j < a.choices; ++j) {
        if (row[j] < 0) continue;
        const Vector o = load(from + row[j] * a.width + i, count);
        y = gate != nullptr ? hn::MulAdd(set(gate[j]), o, y) : hn::Add(y, o);
      }
      store(y, to + first + i, count);
    });
  }
}

void Combine(const CombineRun& a) {
  with_elements(a.o, [&](const auto* o) { with_elements(a.y, [&](auto* y) { combine(a, o, y); }); });
}

template <class O, class Do>
void combine_backward(const CombineRunBackward& a, const O* outputs, Do* gradients) {
  for (std::int64_t row = a.begin; row < a.end; ++row) {
    Do* const d_o = gradients + row * a.width;
    const std::int64_t assignment = a.source[row];
    if (assignment < 0) {
      std::fill_n(d_o, a.width, Do{});
      continue;
    }
    const float* const dy = a.dy + assignment / a.choices * a.width;
    const O* const o = outputs + row * a.width;
    const Vector gate = set(a.gate[assignment]);
    Vector inner = zero();
    for_vectors(a.width, [&](std::int64_t i, std::int64_t count) {
      const Vector d = load(dy + i, count);
      inner = hn::MulAdd(d, load(o + i, count), inner);
      store(hn::Mul(gate, d), d_o + i, count);
    });
    a.dgate[assignment] = sum(inner);
  }
}

void CombineBackward(const CombineRunBackward& a) {
  with_elements(a.o, [&](const auto* o) { with_elements(a.d_o, [&](auto* d_o) { combine_backward(a, o, d_o); }); });
}

}  // namespace
}  // namespace vitrail::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace vitrail::cpu {

HWY_EXPORT(SoftmaxRows);
HWY_EXPORT(Gather);
HWY_EXPORT(Combine);
HWY_EXPORT(CombineBackward);

void softmax_rows(const float* x, const float* noise, float sigma, float* p, std::int64_t rows, std::int64_t n) {
  HWY_DYNAMIC_DISPATCH(SoftmaxRows)(x, noise, sigma, p, rows, n);
}
void gather_run(const GatherRun& a) { HWY_DYNAMIC_DISPATCH(Gather)(a); }
void combine_run(const CombineRun& a) { HWY_DYNAMIC_DISPATCH(Combine)(a); }
void combine_run_backward(const CombineRunBackward& a) { HWY_DYNAMIC_DISPATCH(CombineBackward)(a); }

}  // namespace vitrail::cpu
#endif  // HWY_ONCE
