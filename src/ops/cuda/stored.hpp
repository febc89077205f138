#pragma once
// Elements of tensors that are f32 or bf16 (marked `stored` in the verb headers).

#include <cuda_bf16.h>

#include "device/tensor.hpp"

namespace vitrail::cuda {

using Bfloat16 = __nv_bfloat16;

__host__ __device__ __forceinline__ float to_float(float x) { return x; }
__host__ __device__ __forceinline__ float to_float(Bfloat16 x) { return __bfloat162float(x); }

/// Rounded to nearest, ties to even.
template <class T>
__host__ __device__ __forceinline__ T from_float(float x);
template <>
__host__ __device__ __forceinline__ float from_float<float>(float x) {
  return x;
}
template <>
__host__ __device__ __forceinline__ Bfloat16 from_float<Bfloat16>(float x) {
  return __float2bfloat16_rn(x);
}

/// Calls work.operator()<T>() with the element type of a stored tensor.
template <class Work>
void dispatch_stored(Dtype dtype, Work&& work) {
  if (dtype == Dtype::bf16) return work.template operator()<Bfloat16>();
  VITRAIL_EXPECT(dtype == Dtype::f32, ExitCode::other, text("the cuda back end got a tensor of ", name_of(dtype)),
                 "it works on f32 and bf16", "This is a bug in the calling layer");
  work.template operator()<float>();
}

template <class T>
const T* data_of(ConstTensor tensor) {
  return static_cast<const T*>(tensor.data);
}
template <class T>
T* data_of(Tensor tensor) {
  return static_cast<T*>(tensor.data);
}

}  // namespace vitrail::cuda
