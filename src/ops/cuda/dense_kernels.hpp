#pragma once
// The kernels beside the matrix products: rounding, column sums for bias gradients, and what an epilogue could not do.
// Each is one pass over its matrices; sums are f32, in an order that depends on the shape of one leaf and expert alone.

#include <cstdint>

#include <cuda_runtime.h>

#include "device/tensor.hpp"

namespace vitrail::cuda {

inline constexpr std::int64_t kRowsOfPiece = 64;

/// `blocks` matrices of rows of n elements that follow each other; their columns are summed in pieces of rows.
struct Rows {
  std::int64_t blocks, rows, n;
  [[nodiscard]] __host__ __device__ std::int64_t pieces() const { return (rows + kRowsOfPiece - 1) / kRowsOfPiece; }
};

/// Elements of f32 or bf16 in device memory.
struct Elements {
  void* data = nullptr;
  Dtype dtype = Dtype::f32;
};
struct ConstElements {
  const void* data = nullptr;
  Dtype dtype = Dtype::f32;
  ConstElements() = default;
  ConstElements(const void* data_, Dtype dtype_) : data(data_), dtype(dtype_) {}
  ConstElements(const ConstTensor& tensor) : data(tensor.data), dtype(tensor.dtype) {}     // NOLINT
  ConstElements(const Elements& elements) : data(elements.data), dtype(elements.dtype) {}  // NOLINT
};

/// to[i] = from[i], rounded if `to` is bf16.
void convert(ConstElements from, Elements to, std::int64_t count, cudaStream_t stream);

/// Where one reading of a matrix goes.
struct RowsRead {
  Elements copy;  // [blocks rows], its rows copy_stride elements apart; or nothing
  std::int64_t copy_stride = 0;
  float* partial = nullptr;  // column sums [blocks pieces n] of the pieces of rows; or nothing
};
void read_rows(const Rows& rows, ConstElements from, const RowsRead& to, cudaStream_t stream);

/// Pieces of [leaves experts] matrices, and their sums over the pieces and then the tree of the leaves.
struct PartialSums {
  const float* partial;  // [leaves experts pieces n]
  std::int64_t leaves, experts, pieces, n;
  float* sums;  // [experts n]
};
void finish_column_sums(const PartialSums& sums, cudaStream_t stream);

/// y = x + bias of the block's expert + residual.
struct Finish {
  ConstElements x;    // [blocks rows n]
  const float* bias;  // [experts n], block b is of expert b % experts; or nullptr
  std::int64_t experts;
  const float* residual;  // [blocks rows n]; may be y; or nullptr
  Elements y;             // [blocks rows n]; may be x
};
void finish(const Rows& rows, const Finish& a, cudaStream_t stream);

/// sum[i] += x[i]
void add(const float* x, float* sum, std::int64_t count, cudaStream_t stream);

}  // namespace vitrail::cuda
