// Dense layers.

#include "ops/cuda/cuda_ops.hpp"
#include "ops/cuda/products.hpp"

namespace vitrail::cuda {

namespace {

Dtype inputs_of(bool exact, Dtype stored) { return exact ? Dtype::f32 : stored; }

}  // namespace

// y = x w + b + residual
void CudaOps::run(const LinearForward& a) {
  const Blocks n{a.x.shape[0], a.x.shape[1], a.x.shape[2], a.x.shape[3], a.y.shape[3]};
  Products products(gemm_, scratch_, stream(), inputs_of(a.exact, stored()));
  products.reserve({a.x, a.w, a.b});
  const void* const x = products.input(a.x);
  const void* const w = products.input(a.w);
  products.forward(n, x, w, a.b, a.residual, a.y);
}

// dx = dresidual + dy w^T, dw = x^T dy, db = column sums of dy
void CudaOps::run(const LinearBackward& a) {
  const Blocks n{a.x.shape[0], a.x.shape[1], a.x.shape[2], a.x.shape[3], a.dy.shape[3]};
  Products products(gemm_, scratch_, stream(), inputs_of(a.exact, stored()));
  products.reserve({a.dy, a.x, a.w});
  const void* const dy = products.input_and_bias_gradient(n, a.dy, a.db);
  const void* const x = products.input(a.x);
  products.weight_gradient(n, x, dy, a.dw);
  if (!a.dx) return;
  const void* const w = products.input(a.w);
  products.input_gradient(n, dy, w, a.dresidual, a.dx);
}

}  // namespace vitrail::cuda
