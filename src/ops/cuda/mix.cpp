// The two mixtures of Soft MoE: batched products of groups.

#include "ops/cuda/cuda_ops.hpp"
#include "ops/cuda/products.hpp"

namespace vitrail::cuda {

namespace {

Operand matrices(const void* data, std::int64_t rows, std::int64_t columns) {
  return {.data = data, .row_stride = columns, .batch_stride = rows * columns};
}
Operand transposed(Operand operand) {
  operand.transposed = true;
  return operand;
}

struct Sizes {
  std::int64_t groups, tokens, width, slots;
};

/// c + a b for every group, in f32.
void multiply_groups(Gemm& gemm, const Sizes& n, Dtype inputs, Product p, Tensor d) {
  p.batch = n.groups;
  p.inputs = inputs;
  p.d = d.as<float>();
  p.d_stride = p.m * p.n;
  gemm.multiply(p);
}

}  // namespace

// y[g] = w[g]^T x[g]
void CudaOps::run(const MixTokensForward& a) {
  const Sizes n{a.x.shape[0], a.x.shape[1], a.x.shape[2], a.w.shape[2]};
  Products products(gemm_, scratch_, stream(), stored());
  products.reserve({a.x, a.w});
  const Operand x = matrices(products.input(a.x), n.tokens, n.width);
  const Operand w = matrices(products.input(a.w), n.tokens, n.slots);
  multiply_groups(gemm_, n, stored(), {.m = n.slots, .n = n.width, .k = n.tokens, .a = transposed(w), .b = x}, a.y);
}

// dw[g] = x[g] dy[g]^T;  dx[g] = w[g] dy[g]
void CudaOps::run(const MixTokensBackward& a) {
  const Sizes n{a.x.shape[0], a.x.shape[1], a.x.shape[2], a.w.shape[2]};
  Products products(gemm_, scratch_, stream(), stored());
  products.reserve({a.dy, a.x, a.w});
  const Operand dy = matrices(products.input(a.dy), n.slots, n.width);
  const Operand x = matrices(products.input(a.x), n.tokens, n.width);
  const Operand w = matrices(products.input(a.w), n.tokens, n.slots);
  multiply_groups(gemm_, n, stored(), {.m = n.tokens, .n = n.slots, .k = n.width, .a = x, .b = transposed(dy)}, a.dw);
  multiply_groups(gemm_, n, stored(), {.m = n.tokens, .n = n.width, .k = n.slots, .a = w, .b = dy}, a.dx);
}

// y[g] = residual[g] + w[g] o[g]
void CudaOps::run(const MixSlotsForward& a) {
  const Sizes n{a.w.shape[0], a.w.shape[1], a.y.shape[2], a.w.shape[2]};
  Products products(gemm_, scratch_, stream(), stored());
  products.reserve({a.o, a.w});
  const Operand o = matrices(products.input(a.o), n.slots, n.width);
  const Operand w = matrices(products.input(a.w), n.tokens, n.slots);
  multiply_groups(gemm_, n, stored(), {.m = n.tokens, .n = n.width, .k = n.slots, .a = w, .b = o, .c = a.residual.data},
                  a.y);
}

// dw[g] = dy[g] o[g]^T;  d_o[g] = w[g]^T dy[g]
void CudaOps::run(const MixSlotsBackward& a) {
  const Sizes n{a.w.shape[0], a.w.shape[1], a.dy.shape[2], a.w.shape[2]};
  Products products(gemm_, scratch_, stream(), stored());
  products.reserve({a.dy, a.o, a.w});
  const Operand dy = matrices(products.input(a.dy), n.tokens, n.width);
  const Operand o = matrices(products.input(a.o), n.slots, n.width);
  const Operand w = matrices(products.input(a.w), n.tokens, n.slots);
  multiply_groups(gemm_, n, stored(), {.m = n.tokens, .n = n.slots, .k = n.width, .a = dy, .b = transposed(o)}, a.dw);
  multiply_groups(gemm_, n, stored(), {.m = n.slots, .n = n.width, .k = n.tokens, .a = transposed(w), .b = dy}, a.d_o);
}

}  // namespace vitrail::cuda
