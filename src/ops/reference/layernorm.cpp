// Layer norm and tanh.

#include <algorithm>

#include "ops/reference/numbers.hpp"
#include "ops/reference/reference.hpp"

namespace vitrail::reference {

constexpr double kEpsilon = 1e-6;

// mean = sum x / D;  var = sum (x - mean)^2 / D;  rstd = 1 / sqrt(var + 1e-6);  y = (x - mean) rstd scale + bias
template <class T>
void layernorm_forward(const LayernormForward& a) {
  const std::int64_t rows = a.x.shape[0] * a.x.shape[1], width = a.x.shape[2];
  const T* scale = a.scale.as<T>();
  for (std::int64_t r = 0; r < rows; ++r) {
    const T* x = a.x.as<T>() + r * width;
    T* y = a.y.as<T>() + r * width;
    T mean{}, variance{};
    for (std::int64_t c = 0; c < width; ++c) mean += x[c];
    mean /= static_cast<double>(width);
    for (std::int64_t c = 0; c < width; ++c) variance += (x[c] - mean) * (x[c] - mean);
    variance /= static_cast<double>(width);
    const T rstd = 1.0 / std::sqrt(variance + kEpsilon);
    for (std::int64_t c = 0; c < width; ++c)
      y[c] = (x[c] - mean) * rstd * scale[c] + (a.bias ? a.bias.as<T>()[c] : T{});
    a.mean.as<T>()[r] = mean;
    a.rstd.as<T>()[r] = rstd;
  }
}

// xh = (x - mean) rstd;  dxh = dy scale
// dscale = sum over rows of dy xh;  dbias = sum over rows of dy
// dx = dresidual + rstd (dxh - mean(dxh) - xh mean(dxh xh))
template <class T>
void layernorm_backward(const LayernormBackward& a) {
  const std::int64_t leaves = a.x.shape[0], rows = a.x.shape[1], width = a.x.shape[2];
  const T *x = a.x.as<T>(), *dy = a.dy.as<T>(), *scale = a.scale.as<T>();
  const auto xh = [&](std::int64_t r, std::int64_t c) {
    return (x[r * width + c] - a.mean.as<T>()[r]) * a.rstd.as<T>()[r];
  };
  // Before dx, which may be dy.
  sum_over_leaves(0, leaves, a.dscale.as<T>(), width, [&](std::int64_t leaf, T* dscale) {
    std::fill(dscale, dscale + width, T{});
    for (std::int64_t r = leaf * rows; r < (leaf + 1) * rows; ++r)
      for (std::int64_t c = 0; c < width; ++c) dscale[c] += dy[r * width + c] * xh(r, c);
  });
  const auto sum_of_rows = [&](std::int64_t leaf, T* dbias) {
    std::fill(dbias, dbias + width, T{});
    for (std::int64_t r = leaf * rows; r < (leaf + 1) * rows; ++r)
      for (std::int64_t c = 0; c < width; ++c) dbias[c] += dy[r * width + c];
  };
  if (a.dbias) sum_over_leaves(0, leaves, a.dbias.as<T>(), width, sum_of_rows);
  for (std::int64_t r = 0; r < leaves * rows; ++r) {
    T mean_dxh{}, mean_dxh_xh{};
    for (std::int64_t c = 0; c < width; ++c) {
      const T dxh = dy[r * width + c] * scale[c];
      mean_dxh += dxh;
      mean_dxh_xh += dxh * xh(r, c);
    }
    mean_dxh /= static_cast<double>(width);
    mean_dxh_xh /= static_cast<double>(width);
    for (std::int64_t c = 0; c < width; ++c) {
      const T dxh = dy[r * width + c] * scale[c];
      const T dresidual = a.dresidual ? a.dresidual.as<T>()[r * width + c] : T{};
      a.dx.as<T>()[r * width + c] = dresidual + a.rstd.as<T>()[r] * (dxh - mean_dxh - xh(r, c) * mean_dxh_xh);
    }
  }
}

// y = tanh(x)
template <class T>
void tanh_forward(const TanhForward& a) {
  for (std::int64_t i = 0; i < a.x.elements(); ++i) a.y.as<T>()[i] = std::tanh(a.x.as<T>()[i]);
}

// dx = dy (1 - y^2)
template <class T>
void tanh_backward(const TanhBackward& a) {
  for (std::int64_t i = 0; i < a.y.elements(); ++i) {
    const T y = a.y.as<T>()[i];
    a.dx.as<T>()[i] = a.dy.as<T>()[i] * (1.0 - y * y);
  }
}

VITRAIL_REFERENCE_VERB(layernorm_forward, LayernormForward)
VITRAIL_REFERENCE_VERB(layernorm_backward, LayernormBackward)
VITRAIL_REFERENCE_VERB(tanh_forward, TanhForward)
VITRAIL_REFERENCE_VERB(tanh_backward, TanhBackward)

}  // namespace vitrail::reference
