#include "ops/cpu/dense_kernels.hpp"

#include <algorithm>
#include <cmath>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/cpu/dense_kernels.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "ops/cpu/vector_math-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace vitrail::cpu::HWY_NAMESPACE {
namespace {

void StartRows(const float* bias, const float* residual, float* y, std::int64_t rows, std::int64_t n) {
  for (std::int64_t row = 0; row < rows; ++row) {
    const std::int64_t first = row * n;
    for_vectors(n, [&](std::int64_t i, std::int64_t count) {
      Vector start = bias != nullptr ? load(bias + i, count) : zero();
      if (residual != nullptr) start = hn::Add(start, load(residual + first + i, count));
      store(start, y + first + i, count);
    });
  }
}

void BiasGelu(const float* bias, const float* mask, float* u, float* h, std::int64_t rows, std::int64_t n) {
  for (std::int64_t row = 0; row < rows; ++row) {
    const std::int64_t first = row * n;
    for_vectors(n, [&](std::int64_t i, std::int64_t count) {
      const Vector x = hn::Add(load(u + first + i, count), load(bias + i, count));
      store(x, u + first + i, count);
      Vector value = gelu(x);
      if (mask != nullptr) value = hn::Mul(value, load(mask + first + i, count));
      store(value, h + first + i, count);
    });
  }
}

void GeluBackward(const float* u, const float* mask, float* h, float* du, std::int64_t n) {
  for_vectors(n, [&](std::int64_t i, std::int64_t count) {
    Gelu g = gelu_and_slope(load(u + i, count));
    if (mask != nullptr) {
      const Vector factor = load(mask + i, count);
      g = {hn::Mul(g.value, factor), hn::Mul(g.slope, factor)};
    }
    store(g.value, h + i, count);
    store(hn::Mul(load(du + i, count), g.slope), du + i, count);
  });
}

/// kVectors columns of vectors, all rows; kAdd: on top of what sums hold.
template <bool kAdd, int kVectors>
HWY_INLINE void sum_columns(const float* x, std::int64_t stride, std::int64_t rows, std::int64_t count, float* sums) {
  Vector totals[kVectors];
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; ++v) totals[v] = kAdd ? load(sums + v * lanes(), count) : zero();
  for (std::int64_t row = 0; row < rows; ++row) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) totals[v] = hn::Add(totals[v], load(x + row * stride + v * lanes(), count));
  }
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; ++v) store(totals[v], sums + v * lanes(), count);
}

template <bool kAdd>
void sum_all_columns(const float* x, std::int64_t stride, std::int64_t rows, std::int64_t n, float* sums) {
  const std::int64_t step = lanes();
  std::int64_t c = 0;
  for (; c + 4 * step <= n; c += 4 * step) sum_columns<kAdd, 4>(x + c, stride, rows, step, sums + c);
  for (; c < n; c += step) sum_columns<kAdd, 1>(x + c, stride, rows, std::min(step, n - c), sums + c);
}

void ColumnSums(const float* x, std::int64_t stride, std::int64_t rows, std::int64_t n, float* sums) {
  sum_all_columns<false>(x, stride, rows, n, sums);
}
void AddColumnSums(const float* x, std::int64_t stride, std::int64_t rows, std::int64_t n, float* sums) {
  sum_all_columns<true>(x, stride, rows, n, sums);
}

void AddInto(const float* x, float* y, std::int64_t n) {
  for_vectors(n, [&](std::int64_t i, std::int64_t count) {
    store(hn::Add(load(y + i, count), load(x + i, count)), y + i, count);
  });
}

void TanhForwardRun(const float* x, float* y, std::int64_t n) {
  for_vectors(n, [&](std::int64_t i, std::int64_t count) { store(tanh(load(x + i, count)), y + i, count); });
}

void TanhBackwardRun(const float* dy, const float* y, float* dx, std::int64_t n) {
  for_vectors(n, [&](std::int64_t i, std::int64_t count) {
    const Vector t = load(y + i, count);
    store(hn::Mul(load(dy + i, count), hn::NegMulAdd(t, t, set(1.0F))), dx + i, count);
  });
}

void LayernormForwardRun(const LayernormRows& a) {
  const float inverse_n = 1.0F / static_cast<float>(a.n);
  for (std::int64_t row = 0; row < a.rows; ++row) {
    const float* x = a.x + row * a.n;
    Vector total = zero();
    for_vectors(a.n, [&](std::int64_t i, std::int64_t count) { total = hn::Add(total, load(x + i, count)); });
    const float mean = sum(total) * inverse_n;
    const Vector means = set(mean);
    Vector squares = zero();
    for_vectors(a.n, [&](std::int64_t i, std::int64_t count) {
      const Vector away = hn::Sub(load(x + i, count, mean), means);
      squares = hn::MulAdd(away, away, squares);
    });
    const float rstd = 1.0F / std::sqrt(sum(squares) * inverse_n + 1e-6F);
    const Vector rstds = set(rstd);
    for_vectors(a.n, [&](std::int64_t i, std::int64_t count) {
      const Vector normal = hn::Mul(hn::Sub(load(x + i, count), means), rstds);
      const Vector bias = a.bias != nullptr ? load(a.bias + i, count) : zero();
      store(hn::MulAdd(normal, load(a.scale + i, count), bias), a.y + row * a.n + i, count);
    });
    a.mean[row] = mean;
    a.rstd[row] = rstd;
  }
}

void LayernormBackwardRun(const LayernormRowsBackward& a) {
  std::fill_n(a.dscale, a.n, 0.0F);
  std::fill_n(a.dbias, a.n, 0.0F);
  const float inverse_n = 1.0F / static_cast<float>(a.n);
  for (std::int64_t row = 0; row < a.rows; ++row) {
    const std::int64_t first = row * a.n;
    const Vector mean = set(a.mean[row]);
    const Vector rstd = set(a.rstd[row]);
    Vector dnormal_sum = zero();
    Vector product_sum = zero();
    for_vectors(a.n, [&](std::int64_t i, std::int64_t count) {
      const Vector dy = load(a.dy + first + i, count);
      // Lanes past the end have dy = 0, so their x does not matter.
      const Vector normal = hn::Mul(hn::Sub(load(a.x + first + i, count), mean), rstd);
      const Vector dnormal = hn::Mul(dy, load(a.scale + i, count));
      dnormal_sum = hn::Add(dnormal_sum, dnormal);
      product_sum = hn::MulAdd(dnormal, normal, product_sum);
      store(hn::MulAdd(dy, normal, load(a.dscale + i, count)), a.dscale + i, count);
      store(hn::Add(dy, load(a.dbias + i, count)), a.dbias + i, count);
    });
    const Vector dnormal_mean = set(sum(dnormal_sum) * inverse_n);
    const Vector product_mean = set(sum(product_sum) * inverse_n);
    for_vectors(a.n, [&](std::int64_t i, std::int64_t count) {
      const Vector normal = hn::Mul(hn::Sub(load(a.x + first + i, count), mean), rstd);
      const Vector dnormal = hn::Mul(load(a.dy + first + i, count), load(a.scale + i, count));
      const Vector centred = hn::NegMulAdd(normal, product_mean, hn::Sub(dnormal, dnormal_mean));
      const Vector residual = a.dresidual != nullptr ? load(a.dresidual + first + i, count) : zero();
      store(hn::MulAdd(rstd, centred, residual), a.dx + first + i, count);
    });
  }
}

}  // namespace
}  // namespace vitrail::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace vitrail::cpu {

HWY_EXPORT(StartRows);
HWY_EXPORT(BiasGelu);
HWY_EXPORT(GeluBackward);
HWY_EXPORT(ColumnSums);
HWY_EXPORT(AddColumnSums);
HWY_EXPORT(AddInto);
HWY_EXPORT(TanhForwardRun);
HWY_EXPORT(TanhBackwardRun);
HWY_EXPORT(LayernormForwardRun);
HWY_EXPORT(LayernormBackwardRun);

void start_rows(const float* bias, const float* residual, float* y, std::int64_t rows, std::int64_t n) {
  HWY_DYNAMIC_DISPATCH(StartRows)(bias, residual, y, rows, n);
}
void bias_gelu(const float* bias, const float* mask, float* u, float* h, std::int64_t rows, std::int64_t n) {
  HWY_DYNAMIC_DISPATCH(BiasGelu)(bias, mask, u, h, rows, n);
}
void gelu_backward(const float* u, const float* mask, float* h, float* du, std::int64_t n) {
  HWY_DYNAMIC_DISPATCH(GeluBackward)(u, mask, h, du, n);
}
void column_sums(const float* x, std::int64_t stride, std::int64_t rows, std::int64_t n, float* sums) {
  HWY_DYNAMIC_DISPATCH(ColumnSums)(x, stride, rows, n, sums);
}
void add_column_sums(const float* x, std::int64_t stride, std::int64_t rows, std::int64_t n, float* sums) {
  HWY_DYNAMIC_DISPATCH(AddColumnSums)(x, stride, rows, n, sums);
}
void add_into(const float* x, float* y, std::int64_t n) { HWY_DYNAMIC_DISPATCH(AddInto)(x, y, n); }
void tanh_run(const float* x, float* y, std::int64_t n) { HWY_DYNAMIC_DISPATCH(TanhForwardRun)(x, y, n); }
void tanh_run_backward(const float* dy, const float* y, float* dx, std::int64_t n) {
  HWY_DYNAMIC_DISPATCH(TanhBackwardRun)(dy, y, dx, n);
}
void layernorm_rows(const LayernormRows& a) { HWY_DYNAMIC_DISPATCH(LayernormForwardRun)(a); }
void layernorm_rows_backward(const LayernormRowsBackward& a) { HWY_DYNAMIC_DISPATCH(LayernormBackwardRun)(a); }

}  // namespace vitrail::cpu
#endif  // HWY_ONCE
