#include "ops/cpu/soft_kernels.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/cpu/soft_kernels.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "ops/cpu/vector_math-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace vitrail::cpu::HWY_NAMESPACE {
namespace {

constexpr float kEpsilon = 1e-6F;

void RowRnorms(const float* x, std::int64_t rows, std::int64_t n, float* rnorm) {
  for (std::int64_t row = 0; row < rows; ++row) {
    Vector squares = zero();
    for_vectors(n, [&](std::int64_t i, std::int64_t count) {
      const Vector v = load(x + row * n + i, count);
      squares = hn::MulAdd(v, v, squares);
    });
    rnorm[row] = 1.0F / std::sqrt(sum(squares) + kEpsilon);
  }
}

void ColumnRnorms(const float* x, std::int64_t stride, std::int64_t rows, std::int64_t n, float* rnorm) {
  for_vectors(n, [&](std::int64_t i, std::int64_t count) {
    Vector squares = zero();
    for (std::int64_t row = 0; row < rows; ++row) {
      const Vector v = load(x + row * stride + i, count);
      squares = hn::MulAdd(v, v, squares);
    }
    store(hn::Div(set(1.0F), hn::Sqrt(hn::Add(squares, set(kEpsilon)))), rnorm + i, count);
  });
}

void Weights(const SoftWeights& a) {
  float* const largest_of = a.columns;  // per slot, over the valid tokens
  float* const total_of = a.columns + a.slots;
  const auto counts = [&](std::int64_t s) { return a.valid == nullptr || a.valid[s] != 0; };
  std::fill_n(largest_of, a.slots, -std::numeric_limits<float>::infinity());
  std::fill_n(total_of, a.slots, 0.0F);
  for (std::int64_t s = 0; s < a.tokens; ++s) {
    const Vector of_token = set(a.scale * a.x_rnorm[s]);
    const bool valid = counts(s);
    for_vectors(a.slots, [&](std::int64_t i, std::int64_t count) {
      float* const z = a.combine + s * a.slots + i;
      Vector value = hn::Mul(hn::Mul(of_token, load(a.mu_rnorm + i, count)), load(z, count));
      if (a.noise != nullptr) value = hn::MulAdd(set(a.sigma), load(a.noise + s * a.slots + i, count), value);
      store(value, z, count);
      if (valid) store(hn::Max(load(largest_of + i, count), value), largest_of + i, count);
    });
  }
  for (std::int64_t s = 0; s < a.tokens; ++s) {
    float* const p = a.dispatch + s * a.slots;
    if (!counts(s)) {
      std::fill_n(p, a.slots, 0.0F);
      continue;
    }
    for_vectors(a.slots, [&](std::int64_t i, std::int64_t count) {
      const Vector e = exp(hn::Sub(load(a.combine + s * a.slots + i, count), load(largest_of + i, count)));
      store(e, p + i, count);
      store(hn::Add(load(total_of + i, count), e), total_of + i, count);
    });
  }
  for (std::int64_t s = 0; s < a.tokens; ++s) {
    if (!counts(s)) continue;
    float* const p = a.dispatch + s * a.slots;
    for_vectors(a.slots, [&](std::int64_t i, std::int64_t count) {
      store(hn::Div(load(p + i, count), load(total_of + i, count, 1.0F)), p + i, count);
    });
  }
}

void WeightsBackward(const SoftWeightsBackward& a) {
  std::fill_n(a.columns, a.slots, 0.0F);  // per slot, sum over the tokens of dispatch ddispatch
  for (std::int64_t s = 0; s < a.tokens; ++s) {
    const std::int64_t first = s * a.slots;
    for_vectors(a.slots, [&](std::int64_t i, std::int64_t count) {
      const Vector p = load(a.dispatch + first + i, count);
      const Vector total = load(a.columns + i, count);
      store(hn::MulAdd(p, load(a.ddispatch + first + i, count), total), a.columns + i, count);
    });
  }
  for (std::int64_t s = 0; s < a.tokens; ++s) {
    const std::int64_t first = s * a.slots;
    Vector products = zero();
    for_vectors(a.slots, [&](std::int64_t i, std::int64_t count) {
      products = hn::MulAdd(load(a.combine + first + i, count), load(a.dcombine + first + i, count), products);
    });
    const Vector inner = set(sum(products));
    const Vector of_token = set(a.x_rnorm[s]);
    for_vectors(a.slots, [&](std::int64_t i, std::int64_t count) {
      const Vector over_tokens = hn::Sub(load(a.ddispatch + first + i, count), load(a.columns + i, count));
      const Vector over_slots = hn::Sub(load(a.dcombine + first + i, count), inner);
      const Vector dz = hn::MulAdd(load(a.dispatch + first + i, count), over_tokens,
                                   hn::Mul(load(a.combine + first + i, count), over_slots));
      store(hn::Mul(dz, hn::Mul(of_token, load(a.mu_rnorm + i, count))), a.dlogits + first + i, count);
    });
  }
}

void InputBackward(const SoftInputBackward& a) {
  for (std::int64_t row = 0; row < a.rows; ++row) {
    const std::int64_t first = row * a.n;
    const Vector rnorm = set(a.x_rnorm[row]);
    Vector products = zero();
    for_vectors(a.n, [&](std::int64_t i, std::int64_t count) {
      products = hn::MulAdd(hn::Mul(rnorm, load(a.x + first + i, count)), load(a.d + first + i, count), products);
    });
    const Vector inner = set(sum(products));
    for_vectors(a.n, [&](std::int64_t i, std::int64_t count) {
      const Vector normal = hn::Mul(rnorm, load(a.x + first + i, count));
      const Vector across = hn::NegMulAdd(normal, inner, load(a.d + first + i, count));
      const Vector residual = a.dresidual != nullptr ? load(a.dresidual + first + i, count) : zero();
      store(hn::MulAdd(set(a.scale), across, residual), a.dx + first + i, count);
    });
  }
}

float SlotsBackward(const SoftSlotsBackward& a) {
  std::fill_n(a.columns, a.slots, 0.0F);  // per slot, <mu, d>
  for (std::int64_t c = 0; c < a.width; ++c) {
    const std::int64_t first = c * a.slots;
    for_vectors(a.slots, [&](std::int64_t i, std::int64_t count) {
      const Vector total = load(a.columns + i, count);
      store(hn::MulAdd(load(a.mu + first + i, count), load(a.d + first + i, count), total), a.columns + i, count);
    });
  }
  double dscale = 0.0;
  for (std::int64_t r = 0; r < a.slots; ++r) dscale += static_cast<double>(a.columns[r]);
  for (std::int64_t r = 0; r < a.slots; ++r) a.columns[r] *= a.mu_rnorm[r] * a.mu_rnorm[r];
  for (std::int64_t c = 0; c < a.width; ++c) {
    const std::int64_t first = c * a.slots;
    for_vectors(a.slots, [&](std::int64_t i, std::int64_t count) {
      const Vector across =
          hn::NegMulAdd(load(a.mu + first + i, count), load(a.columns + i, count), load(a.d + first + i, count));
      store(hn::Mul(set(a.scale), across), a.d + first + i, count);
    });
  }
  return static_cast<float>(dscale);
}

}  // namespace
}  // namespace vitrail::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace vitrail::cpu {

HWY_EXPORT(RowRnorms);
HWY_EXPORT(ColumnRnorms);
HWY_EXPORT(Weights);
HWY_EXPORT(WeightsBackward);
HWY_EXPORT(InputBackward);
HWY_EXPORT(SlotsBackward);

void row_rnorms(const float* x, std::int64_t rows, std::int64_t n, float* rnorm) {
  HWY_DYNAMIC_DISPATCH(RowRnorms)(x, rows, n, rnorm);
}
void column_rnorms(const float* x, std::int64_t stride, std::int64_t rows, std::int64_t n, float* rnorm) {
  HWY_DYNAMIC_DISPATCH(ColumnRnorms)(x, stride, rows, n, rnorm);
}
void soft_weights(const SoftWeights& a) { HWY_DYNAMIC_DISPATCH(Weights)(a); }
void soft_weights_backward(const SoftWeightsBackward& a) { HWY_DYNAMIC_DISPATCH(WeightsBackward)(a); }
void soft_input_backward(const SoftInputBackward& a) { HWY_DYNAMIC_DISPATCH(InputBackward)(a); }
float soft_slots_backward(const SoftSlotsBackward& a) { return HWY_DYNAMIC_DISPATCH(SlotsBackward)(a); }

}  // namespace vitrail::cpu
#endif  // HWY_ONCE
