#pragma once
// Matrix products of the reference, row-major. The inner loop runs along memory; that is all the speed there is.

#include <algorithm>
#include <cstdint>
#include <vector>

namespace vitrail::reference {

/// y = x w + b + residual; x [rows in], w [in out], b [out] and residual [rows out] may be null; residual may be y.
template <class T>
void affine(const T* x, const T* w, const T* b, const T* residual, T* y, std::int64_t rows, std::int64_t in,
            std::int64_t out) {
  std::vector<T> buffer(static_cast<std::size_t>(out));
  T* sum = buffer.data();
  for (std::int64_t r = 0; r < rows; ++r) {
    std::fill(buffer.begin(), buffer.end(), T{});
    for (std::int64_t i = 0; i < in; ++i) {
      const T x_ri = x[r * in + i];
      for (std::int64_t o = 0; o < out; ++o) sum[o] += x_ri * w[i * out + o];
    }
    for (std::int64_t o = 0; o < out; ++o) {
      T value = sum[o];
      if (b != nullptr) value += b[o];
      if (residual != nullptr) value += residual[r * out + o];
      y[r * out + o] = value;
    }
  }
}

/// dx = dresidual + dy w^T; dy [rows out], w [in out]; dresidual [rows in] may be null and may be dx.
template <class T>
void times_transposed(const T* dy, const T* w, const T* dresidual, T* dx, std::int64_t rows, std::int64_t in,
                      std::int64_t out) {
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t i = 0; i < in; ++i) {
      T sum{};
      for (std::int64_t o = 0; o < out; ++o) sum += dy[r * out + o] * w[i * out + o];
      dx[r * in + i] = dresidual == nullptr ? sum : dresidual[r * in + i] + sum;
    }
  }
}

/// dw = x^T dy; x [rows in], dy [rows out].
template <class T>
void transposed_times(const T* x, const T* dy, T* dw, std::int64_t rows, std::int64_t in, std::int64_t out) {
  std::fill(dw, dw + in * out, T{});
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t i = 0; i < in; ++i) {
      const T x_ri = x[r * in + i];
      for (std::int64_t o = 0; o < out; ++o) dw[i * out + o] += x_ri * dy[r * out + o];
    }
  }
}

/// db[o] = sum over r of dy[r,o]
template <class T>
void column_sums(const T* dy, T* db, std::int64_t rows, std::int64_t out) {
  std::fill(db, db + out, T{});
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t o = 0; o < out; ++o) db[o] += dy[r * out + o];
  }
}

}  // namespace vitrail::reference
