// The projections to queries, keys and values: three products of one input, as one batch where the three lie in
// memory at equal distances (the bits are the same either way, gemm.hpp).

#include <array>

#include "ops/cuda/cuda_ops.hpp"
#include "ops/cuda/products.hpp"

namespace vitrail::cuda {

namespace {

using Three = std::array<const void*, 3>;

/// Elements from one to the next when all three are `least` or more apart and equally far, else 0.
std::int64_t distance(const Three& of, std::int64_t least, Dtype dtype) {
  const auto address = [&](std::size_t i) {
    return static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(of[i]));
  };
  const std::int64_t bytes = address(1) - address(0);
  if (bytes != address(2) - address(1) || bytes % 16 != 0) return 0;  // 16: what a product may count on
  return bytes >= least * size_of(dtype) ? bytes / size_of(dtype) : 0;
}

bool forward_in_one(Products& products, const Blocks& n, const void* x, const Three& w, const QkvForward& a) {
  if (a.q.dtype != a.k.dtype || a.k.dtype != a.v.dtype) return false;
  const ThreeProducts three{.leaves = n.leaves,
                            .rows = n.rows,
                            .in = n.in,
                            .out = n.out,
                            .x = x,
                            .w = w[0],
                            .w_stride = distance(w, n.in * n.out, products.inputs()),
                            .b = a.bq.as<float>(),
                            .b_stride = distance({a.bq.data, a.bk.data, a.bv.data}, n.out, Dtype::f32),
                            .y = {a.q.data, a.q.dtype},
                            .y_stride = distance({a.q.data, a.k.data, a.v.data}, n.leaves * n.rows * n.out, a.q.dtype)};
  if (three.w_stride == 0 || three.b_stride == 0 || three.y_stride == 0) return false;
  return products.forward_three(three);
}

/// Matrices [blocks rows n] side by side: the columns of all three in one row, as inputs of products.
struct SideBySide {
  Products& products;
  Rows rows;
  void* to;  // [blocks rows 3n]
  void write(std::int64_t i, const ConstTensor& from, float* partial) const {
    const std::int64_t first = i * rows.n * size_of(products.inputs());
    read_rows(rows, from,
              {.copy = {static_cast<std::byte*>(to) + first, products.inputs()},
               .copy_stride = 3 * rows.n,
               .partial = partial},
              products.stream());
  }
};

}  // namespace

void CudaOps::run(const QkvForward& a) {
  const Blocks n{a.x.shape[0], 1, a.x.shape[1], a.x.shape[2], a.q.shape[2]};
  Products products(gemm_, scratch_, stream(), stored());
  products.reserve({a.x, a.wq, a.wk, a.wv, a.bq, a.bk, a.bv});
  const void* const x = products.input(a.x);
  const Three w{products.input(a.wq), products.input(a.wk), products.input(a.wv)};
  if (forward_in_one(products, n, x, w, a)) return;
  products.forward(n, x, w[0], a.bq, {}, a.q);
  products.forward(n, x, w[1], a.bk, {}, a.k);
  products.forward(n, x, w[2], a.bv, {}, a.v);
}

// With the gradients side by side in one matrix, and the weights in another, dx = [dq dk dv] [wq wk wv]^T is one
// product, whose sums stay in f32 until the end. The copies are made while the columns of dq, dk and dv are added.
void CudaOps::run(const QkvBackward& a) {
  const Blocks n{a.x.shape[0], 1, a.x.shape[1], a.x.shape[2], a.dq.shape[2]};
  Products products(gemm_, scratch_, stream(), stored());
  const std::int64_t size = size_of(products.inputs());
  const std::int64_t of_rows = n.leaves * n.rows * 3 * n.out * size;
  const std::int64_t of_weights = n.in * 3 * n.out * size;
  products.reserve({a.x}, of_rows + of_weights + 512);
  const SideBySide gradients{products, {n.leaves, n.rows, n.out}, products.take(of_rows)};
  const SideBySide weights{products, {1, n.in, n.out}, products.take(of_weights)};
  const std::array<ConstTensor, 3> dy{a.dq, a.dk, a.dv};
  const std::array<ConstTensor, 3> w{a.wq, a.wk, a.wv};
  const std::array<Tensor, 3> dw{a.dwq, a.dwk, a.dwv};
  const std::array<Tensor, 3> db{a.dbq, a.dbk, a.dbv};
  for (std::size_t i = 0; i < 3; ++i) {
    float* const partial = products.partial_sums(n);
    gradients.write(static_cast<std::int64_t>(i), dy[i], partial);
    products.finish_bias_gradient(n, partial, db[i].as<float>());
    weights.write(static_cast<std::int64_t>(i), w[i], nullptr);
  }

  WeightGradient gradient{.leaves = n.leaves,
                          .batch = 3,
                          .rows = n.rows,
                          .in = n.in,
                          .out = n.out,
                          .x = products.input(a.x),
                          .x_of_leaf = n.rows * n.in,
                          .x_stride = 0,
                          .dy = gradients.to,
                          .dy_row = 3 * n.out,
                          .dy_of_leaf = n.rows * 3 * n.out,
                          .dy_stride = n.out,
                          .dw = dw[0].as<float>(),
                          .dw_stride = distance({a.dwq.data, a.dwk.data, a.dwv.data}, n.in * n.out, Dtype::f32)};
  if (gradient.dw_stride != 0) {
    products.weight_gradient(gradient);
  } else {
    gradient.batch = 1;
    for (std::size_t i = 0; i < 3; ++i) {
      gradient.dy = static_cast<const std::byte*>(gradients.to) + static_cast<std::int64_t>(i) * n.out * size;
      gradient.dw = dw[i].as<float>();
      products.weight_gradient(gradient);
    }
  }
  products.input_gradient({n.leaves, 1, n.rows, n.in, 3 * n.out}, gradients.to, weights.to, {}, a.dx);
}

}  // namespace vitrail::cuda
