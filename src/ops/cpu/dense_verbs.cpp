// Linear layers and the projections of the attention.

#include <array>

#include "ops/cpu/cpu_ops.hpp"
#include "ops/cpu/row_products.hpp"
#include "ops/cpu/weight_gradient.hpp"

namespace vitrail::cpu {

namespace {

Epilogue store_in(const Tensor& y, std::int64_t columns) {
  Epilogue e;
  e.dtype = y.dtype;
  e.stride = columns;
  e.y = y.data;
  e.y_stride = columns;
  return e;
}

}  // namespace

void CpuOps::run(const LinearForward& a) {
  const std::int64_t in = a.x.shape[3];
  const std::int64_t out = a.w.shape[2];
  RowProducts p{(a.exact ? exact_gemm_ : gemm_).way(), a.x.shape[0], a.x.shape[1], a.x.shape[2], in, out};
  p.a[0] = matrix(a.x, in);
  p.w[0] = matrix(a.w, out);
  p.epilogue = store_in(a.y, out);
  p.epilogue.bias = a.b ? a.b.as<float>() : nullptr;
  p.epilogue.residual = a.residual ? a.residual.as<float>() : nullptr;
  multiply({&p, 1}, threads_, workspace_);
}

void CpuOps::run(const LinearBackward& a) {
  const std::int64_t in = a.x.shape[3];
  const std::int64_t out = a.w.shape[2];
  const Way way = (a.exact ? exact_gemm_ : gemm_).way();
  if (a.dx) {
    RowProducts p{way, a.x.shape[0], a.x.shape[1], a.x.shape[2], out, in};
    p.a[0] = matrix(a.dy, out);
    p.w[0] = transposed(a.w, out);
    p.epilogue = store_in(a.dx, in);
    p.epilogue.residual = a.dresidual ? a.dresidual.as<float>() : nullptr;
    multiply({&p, 1}, threads_, workspace_);
  }
  const WeightGradient job{matrix(a.x, in), matrix(a.dy, out), a.dw.as<float>(), a.db ? a.db.as<float>() : nullptr};
  weight_gradients({&job, 1}, {way, a.x.shape[0], a.x.shape[1], a.x.shape[2], in, out}, threads_, workspace_);
}

void CpuOps::run(const QkvForward& a) {
  const std::int64_t in = a.wq.shape[0];
  const std::int64_t out = a.wq.shape[1];
  const std::array<ConstTensor, 3> w{a.wq, a.wk, a.wv};
  const std::array<ConstTensor, 3> b{a.bq, a.bk, a.bv};
  const std::array<Tensor, 3> y{a.q, a.k, a.v};
  std::array<RowProducts, 3> products;
  for (std::size_t i = 0; i < 3; ++i) {
    RowProducts& p = products[i] = {gemm_.way(), a.x.shape[0], 1, a.x.shape[1], in, out};
    p.a[0] = matrix(a.x, in);
    p.w[0] = matrix(w[i], out);
    p.epilogue = store_in(y[i], out);
    p.epilogue.bias = b[i].as<float>();
  }
  multiply(products, threads_, workspace_);
}

void CpuOps::run(const QkvBackward& a) {
  const std::int64_t in = a.wq.shape[0];
  const std::int64_t out = a.wq.shape[1];
  const std::array<ConstTensor, 3> w{a.wq, a.wk, a.wv};
  const std::array<ConstTensor, 3> dy{a.dq, a.dk, a.dv};
  RowProducts p{gemm_.way(), a.x.shape[0], 1, a.x.shape[1], out, in, 3};
  for (std::size_t i = 0; i < 3; ++i) {
    p.a[i] = matrix(dy[i], out);
    p.w[i] = transposed(w[i], out);
  }
  p.epilogue = store_in(a.dx, in);
  multiply({&p, 1}, threads_, workspace_);
  const Matrix x = matrix(a.x, in);
  const std::array<WeightGradient, 3> jobs{{{x, matrix(a.dq, out), a.dwq.as<float>(), a.dbq.as<float>()},
                                            {x, matrix(a.dk, out), a.dwk.as<float>(), a.dbk.as<float>()},
                                            {x, matrix(a.dv, out), a.dwv.as<float>(), a.dbv.as<float>()}}};
  weight_gradients(jobs, {gemm_.way(), a.x.shape[0], 1, a.x.shape[1], in, out}, threads_, workspace_);
}

}  // namespace vitrail::cpu
