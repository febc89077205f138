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

template <class X>
void start(const float* bias, const X* residual, float* y, std::int64_t rows, std::int64_t n) {
  for (std::int64_t row = 0; row < rows; ++row) {
    const std::int64_t first = row * n;
    for_vectors(n, [&](std::int64_t i, std::int64_t count) {
      Vector start = bias != nullptr ? load(bias + i, count) : zero();
      if (residual != nullptr) start = hn::Add(start, load(residual + first + i, count));
      store(start, y + first + i, count);
    });
  }
}

void StartRows(const float* bias, ConstElements residual, float* y, std::int64_t rows, std::int64_t n) {
  with_elements(residual, [&](const auto* x) { start(bias, x, y, rows, n); });
}

/// kVectors columns of vectors, all rows; kAdd: on top of what sums hold.
template <bool kAdd, int kVectors, class X>
HWY_INLINE void sum_columns(const X* x, std::int64_t stride, std::int64_t rows, std::int64_t count, float* sums) {
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

template <bool kAdd, class X>
void sum_all_columns(const X* x, std::int64_t stride, std::int64_t rows, std::int64_t n, float* sums) {
  const std::int64_t step = lanes();
  std::int64_t c = 0;
  for (; c + 4 * step <= n; c += 4 * step) sum_columns<kAdd, 4>(x + c, stride, rows, step, sums + c);
  for (; c < n; c += step) sum_columns<kAdd, 1>(x + c, stride, rows, std::min(step, n - c), sums + c);
}

void ColumnSums(ConstElements x, std::int64_t stride, std::int64_t rows, std::int64_t n, float* sums) {
  with_elements(x, [&](const auto* from) { sum_all_columns<false>(from, stride, rows, n, sums); });
}
void AddColumnSums(ConstElements x, std::int64_t stride, std::int64_t rows, std::int64_t n, float* sums) {
  with_elements(x, [&](const auto* from) { sum_all_columns<true>(from, stride, rows, n, sums); });
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

/// Rows of a LayerNorm that are computed together, so that the sums of one do not wait for those of another.
constexpr int kNormRows = 4;

/// The rows after these: each is too short a run for the hardware to see it coming.
template <int kRows, class T>
HWY_INLINE void fetch_next(const T* rows, std::int64_t n, std::int64_t i) {
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) __builtin_prefetch(rows + (kRows + r) * n + i);
}

/// kRows rows of a LayerNorm, from row `first`.
template <int kRows, class X, class Y>
HWY_INLINE void normalize(const LayernormRows& a, const X* x, Y* y, std::int64_t first) {
  const std::int64_t n = a.n;
  const float inverse_n = 1.0F / static_cast<float>(n);
  x += first * n;
  y += first * n;
  Vector sums[kRows], means[kRows], rstds[kRows];
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) sums[r] = zero();
  for_vectors(n, [&](std::int64_t i, std::int64_t count) {
    fetch_next<kRows>(x, n, i);
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) sums[r] = hn::Add(sums[r], load(x + r * n + i, count));
  });
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) {
    const float mean = sum(sums[r]) * inverse_n;
    a.mean[first + r] = mean;
    means[r] = set(mean);
    sums[r] = zero();
  }
  for_vectors(n, [&](std::int64_t i, std::int64_t count) {
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      const Vector away = hn::Sub(load(x + r * n + i, count, a.mean[first + r]), means[r]);
      sums[r] = hn::MulAdd(away, away, sums[r]);
    }
  });
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) {
    const float rstd = 1.0F / std::sqrt(sum(sums[r]) * inverse_n + 1e-6F);
    a.rstd[first + r] = rstd;
    rstds[r] = set(rstd);
  }
  for_vectors(n, [&](std::int64_t i, std::int64_t count) {
    const Vector scale = load(a.scale + i, count);
    const Vector bias = a.bias != nullptr ? load(a.bias + i, count) : zero();
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      const Vector normal = hn::Mul(hn::Sub(load(x + r * n + i, count), means[r]), rstds[r]);
      store(hn::MulAdd(normal, scale, bias), y + r * n + i, count);
    }
  });
}

void LayernormForwardRun(const LayernormRows& a) {
  with_elements(a.x, [&](const auto* x) {
    with_elements(a.y, [&](auto* y) {
      std::int64_t row = 0;
      for (; row + kNormRows <= a.rows; row += kNormRows) normalize<kNormRows>(a, x, y, row);
      for (; row < a.rows; ++row) normalize<1>(a, x, y, row);
    });
  });
}

/// kRows rows of the gradients of a LayerNorm, from row `first`.
template <int kRows, class Dy, class X, class Dx>
HWY_INLINE void normalize_backward(const LayernormRowsBackward& a, const Dy* dy, const X* x, Dx* dx,
                                   std::int64_t first) {
  const std::int64_t n = a.n;
  const float inverse_n = 1.0F / static_cast<float>(n);
  const float* const dresidual = a.dresidual != nullptr ? a.dresidual + first * n : nullptr;
  dy += first * n;
  x += first * n;
  dx += first * n;
  Vector mean[kRows], rstd[kRows], dnormals[kRows], products[kRows];  // means of dnormal and of dnormal normal
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) {
    mean[r] = set(a.mean[first + r]);
    rstd[r] = set(a.rstd[first + r]);
    dnormals[r] = products[r] = zero();
  }
  for_vectors(n, [&](std::int64_t i, std::int64_t count) {
    fetch_next<kRows>(x, n, i);
    fetch_next<kRows>(dy, n, i);
    if (dresidual != nullptr) fetch_next<kRows>(dresidual, n, i);
    const Vector scale = load(a.scale + i, count);
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      // Lanes past the end have a scale of 0, so their x does not matter.
      const Vector normal = hn::Mul(hn::Sub(load(x + r * n + i, count), mean[r]), rstd[r]);
      const Vector dnormal = hn::Mul(load(dy + r * n + i, count), scale);
      dnormals[r] = hn::Add(dnormals[r], dnormal);
      products[r] = hn::MulAdd(dnormal, normal, products[r]);
    }
  });
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) {
    dnormals[r] = set(sum(dnormals[r]) * inverse_n);
    products[r] = set(sum(products[r]) * inverse_n);
  }
  for_vectors(n, [&](std::int64_t i, std::int64_t count) {
    const Vector scale = load(a.scale + i, count);
    Vector dscale = load(a.dscale + i, count);
    Vector dbias = load(a.dbias + i, count);
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      const Vector d = load(dy + r * n + i, count);
      const Vector normal = hn::Mul(hn::Sub(load(x + r * n + i, count), mean[r]), rstd[r]);
      dscale = hn::MulAdd(d, normal, dscale);
      dbias = hn::Add(d, dbias);
      // The product rounded as above: with one column the difference is 0.
      const Vector dnormal = hn::Mul(d, scale);
      const Vector centred = hn::NegMulAdd(normal, products[r], hn::Sub(dnormal, dnormals[r]));
      const Vector residual = dresidual != nullptr ? load(dresidual + r * n + i, count) : zero();
      store(hn::MulAdd(rstd[r], centred, residual), dx + r * n + i, count);
    }
    store(dscale, a.dscale + i, count);
    store(dbias, a.dbias + i, count);
  });
}

void LayernormBackwardRun(const LayernormRowsBackward& a) {
  std::fill_n(a.dscale, a.n, 0.0F);
  std::fill_n(a.dbias, a.n, 0.0F);
  with_elements(a.dy, [&](const auto* dy) {
    with_elements(a.x, [&](const auto* x) {
      with_elements(a.dx, [&](auto* dx) {
        std::int64_t row = 0;
        for (; row + kNormRows <= a.rows; row += kNormRows) normalize_backward<kNormRows>(a, dy, x, dx, row);
        for (; row < a.rows; ++row) normalize_backward<1>(a, dy, x, dx, row);
      });
    });
  });
}

}  // namespace
}  // namespace vitrail::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace vitrail::cpu {

HWY_EXPORT(StartRows);
HWY_EXPORT(ColumnSums);
HWY_EXPORT(AddColumnSums);
HWY_EXPORT(AddInto);
HWY_EXPORT(TanhForwardRun);
HWY_EXPORT(TanhBackwardRun);
HWY_EXPORT(LayernormForwardRun);
HWY_EXPORT(LayernormBackwardRun);

void start_rows(const float* bias, ConstElements residual, float* y, std::int64_t rows, std::int64_t n) {
  HWY_DYNAMIC_DISPATCH(StartRows)(bias, residual, y, rows, n);
}
void column_sums(ConstElements x, std::int64_t stride, std::int64_t rows, std::int64_t n, float* sums) {
  HWY_DYNAMIC_DISPATCH(ColumnSums)(x, stride, rows, n, sums);
}
void add_column_sums(ConstElements x, std::int64_t stride, std::int64_t rows, std::int64_t n, float* sums) {
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
