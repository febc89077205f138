#include "plain_product.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include "cuda_bf16.h"

namespace vitrail::emulated {
namespace {

constexpr std::int64_t kRows = 16;  // of D in one tile
constexpr std::int64_t kColumns = 4;
using Eight = float __attribute__((vector_size(32)));
using LooseEight = float __attribute__((vector_size(32), aligned(4), may_alias));

float load(const Matrix& matrix, std::int64_t batch, std::int64_t i, std::int64_t j) {
  const std::int64_t at = batch * matrix.batch + i * matrix.row + j * matrix.column;
  if (matrix.type == CUDA_R_32F) return static_cast<const float*>(matrix.data)[at];
  return static_cast<const __nv_bfloat16*>(matrix.data)[at];
}
void store(const Matrix& matrix, std::int64_t batch, std::int64_t i, std::int64_t j, float value) {
  const std::int64_t at = batch * matrix.batch + i * matrix.row + j * matrix.column;
  if (matrix.type == CUDA_R_32F) {
    static_cast<float*>(matrix.data)[at] = value;
  } else {
    static_cast<__nv_bfloat16*>(matrix.data)[at] = value;
  }
}

/// Panels of `width` lines (rows of A, columns of B), each panel [k][width], filled up with zeros.
template <class Element>
void pack(const Element* data, std::int64_t line_stride, std::int64_t k_stride, std::int64_t lines, std::int64_t k,
          std::int64_t width, float* packed) {
  for (std::int64_t first = 0; first < lines; first += width, packed += k * width) {
    const std::int64_t count = std::min(width, lines - first);
    const Element* panel = data + first * line_stride;
    for (std::int64_t line = 0; line < width; ++line) {
      for (std::int64_t i = 0; i < k; ++i) {
        packed[i * width + line] = line < count ? static_cast<float>(panel[line * line_stride + i * k_stride]) : 0.0F;
      }
    }
  }
}
void pack(const Matrix& matrix, std::int64_t batch, bool lines_are_rows, std::int64_t lines, std::int64_t k,
          std::int64_t width, std::vector<float>& packed) {
  packed.resize(static_cast<std::size_t>((lines + width - 1) / width * width * k));
  const std::int64_t line_stride = lines_are_rows ? matrix.row : matrix.column;
  const std::int64_t k_stride = lines_are_rows ? matrix.column : matrix.row;
  const std::int64_t start = batch * matrix.batch;
  if (matrix.type == CUDA_R_32F) {
    pack(static_cast<const float*>(matrix.data) + start, line_stride, k_stride, lines, k, width, packed.data());
  } else {
    pack(static_cast<const __nv_bfloat16*>(matrix.data) + start, line_stride, k_stride, lines, k, width, packed.data());
  }
}

/// tile[column][row] = sum over k of a[k][row] b[k][column]. No fused multiply-add: the same bits on every machine.
__attribute__((always_inline)) inline void multiply_tile(const float* a, const float* b, std::int64_t k, float* tile) {
  Eight sum[kColumns][2] = {};
  for (std::int64_t i = 0; i < k; ++i, a += kRows, b += kColumns) {
    const Eight low = *reinterpret_cast<const LooseEight*>(a);
    const Eight high = *reinterpret_cast<const LooseEight*>(a + 8);
    for (int column = 0; column < kColumns; ++column) {
      sum[column][0] += low * b[column];
      sum[column][1] += high * b[column];
    }
  }
  for (int column = 0; column < kColumns; ++column) {
    *reinterpret_cast<LooseEight*>(tile + column * kRows) = sum[column][0];
    *reinterpret_cast<LooseEight*>(tile + column * kRows + 8) = sum[column][1];
  }
}
using MultiplyTile = void (*)(const float*, const float*, std::int64_t, float*);
void multiply_plain(const float* a, const float* b, std::int64_t k, float* tile) { multiply_tile(a, b, k, tile); }
__attribute__((target("avx2"))) void multiply_avx2(const float* a, const float* b, std::int64_t k, float* tile) {
  multiply_tile(a, b, k, tile);
}

// GELU in its tanh form, as cuBLASLt has it.
constexpr float kScale = 0.7978845608028654F, kCubic = 0.044715F;
float gelu(float u) { return 0.5F * u * (1.0F + std::tanh(kScale * (u + kCubic * u * u * u))); }
float gelu_slope(float u) {
  const float t = std::tanh(kScale * (u + kCubic * u * u * u));
  return 0.5F * (1.0F + t) + 0.5F * u * (1.0F - t * t) * kScale * (1.0F + 3.0F * kCubic * u * u);
}

bool has(const Product& product, int flag) { return (static_cast<int>(product.epilogue) & flag) == flag; }

float finished(const Product& p, std::int64_t batch, std::int64_t i, std::int64_t j, float sum) {
  float value = p.alpha * sum;
  if (p.beta != 0.0F) value += p.beta * load(p.c, batch, i, j);
  if (has(p, CUBLASLT_EPILOGUE_DGELU)) return value * gelu_slope(load(p.aux, batch, i, j));
  if (has(p, CUBLASLT_EPILOGUE_BIAS)) value += load(p.bias, batch, i, 0);
  if (has(p, CUBLASLT_EPILOGUE_GELU_AUX)) store(p.aux, batch, i, j, value);
  return has(p, CUBLASLT_EPILOGUE_GELU) ? gelu(value) : value;
}

/// The gradient of a bias that is a sum over k of one input.
void sum_input(const Product& p, std::int64_t batch) {
  const bool of_a = p.epilogue == CUBLASLT_EPILOGUE_BGRADA;
  for (std::int64_t line = 0; line < (of_a ? p.m : p.n); ++line) {
    float sum = 0.0F;
    for (std::int64_t i = 0; i < p.k; ++i) sum += of_a ? load(p.a, batch, line, i) : load(p.b, batch, i, line);
    store(p.bias, batch, line, 0, sum);
  }
}

}  // namespace

void run_product(const Product& p) {
  const MultiplyTile multiply = __builtin_cpu_supports("avx2") ? &multiply_avx2 : &multiply_plain;
  std::vector<float> a, b, column_sums;
  float tile[kRows * kColumns];
  for (std::int64_t batch = 0; batch < p.batches; ++batch) {
    pack(p.a, batch, true, p.m, p.k, kRows, a);
    pack(p.b, batch, false, p.n, p.k, kColumns, b);
    column_sums.assign(static_cast<std::size_t>(p.m), 0.0F);
    for (std::int64_t j0 = 0; j0 < p.n; j0 += kColumns) {
      for (std::int64_t i0 = 0; i0 < p.m; i0 += kRows) {
        multiply(a.data() + i0 * p.k, b.data() + j0 * p.k, p.k, tile);
        for (std::int64_t j = j0; j < std::min(j0 + kColumns, p.n); ++j) {
          for (std::int64_t i = i0; i < std::min(i0 + kRows, p.m); ++i) {
            const float value = finished(p, batch, i, j, tile[(j - j0) * kRows + i - i0]);
            store(p.d, batch, i, j, value);
            column_sums[static_cast<std::size_t>(i)] += value;
          }
        }
      }
    }
    if (p.epilogue == CUBLASLT_EPILOGUE_DGELU_BGRAD) {
      for (std::int64_t i = 0; i < p.m; ++i) store(p.bias, batch, i, 0, column_sums[static_cast<std::size_t>(i)]);
    }
    if (p.epilogue == CUBLASLT_EPILOGUE_BGRADA || p.epilogue == CUBLASLT_EPILOGUE_BGRADB) sum_input(p, batch);
  }
}

}  // namespace vitrail::emulated
