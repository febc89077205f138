#pragma once
// D = epilogue(alpha op(A) op(B) + beta C) in f32, every sum from k = 0 upwards, whatever the batch.

#include <cstddef>
#include <cstdint>

#include "cublasLt.h"

namespace vitrail::emulated {

/// A matrix of a batch: element (i, j) of matrix n at data + (n * batch + i * row + j * column) elements.
struct Matrix {
  void* data = nullptr;
  cudaDataType type = CUDA_R_32F;
  std::int64_t row = 0, column = 0, batch = 0;
};

struct Product {
  std::int64_t m = 0, n = 0, k = 0, batches = 1;
  Matrix a, b, c, d;  ///< a and b as op() makes them
  float alpha = 1.0F, beta = 0.0F;
  cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
  Matrix bias;  ///< row: 1; length m (n for BGRADB)
  Matrix aux;   ///< m x n
};

void run_product(const Product& product);

}  // namespace vitrail::emulated
