#pragma once
// The header of a .npy file: magic, version, and a Python dictionary that says dtype, order and shape.
// Format: NEP 1 and numpy/lib/format of NumPy, versions 1.0, 2.0 and 3.0.

#include <cstdint>
#include <functional>
#include <string>

#include "convert/tensors.hpp"

namespace vitrail {

struct NpyHeader {
  Shape shape;
  Dtype dtype = Dtype::f32;
  bool half = false;       ///< the file has f16, read as f32
  std::int64_t bytes = 0;  ///< of the header: the data follow
};

/// Reads `count` bytes at `offset` of the .npy file.
using NpyBytes = std::function<void(std::int64_t offset, void* to, std::int64_t count)>;

/// Reads the header of a file of `file_bytes` bytes and checks it against that size. f4, f8, i4, i8, u1, f2 and
/// bfloat16
/// ('V2', as Google's checkpoints have it) in little endian and C order are supported, with at most 6 axes. Everything
/// else is an Error (checkpoint); `what` names the tensor in it.
NpyHeader read_npy_header(const NpyBytes& read, std::int64_t file_bytes, const std::string& what);

/// A header of version 1.0 in C order; its size is a multiple of 64. bf16 becomes '|V2', which NumPy shows as two raw
/// bytes: array.view(ml_dtypes.bfloat16) makes numbers of them. c128 is an Error (checkpoint).
std::string npy_header(const TensorInfo& tensor);

}  // namespace vitrail
