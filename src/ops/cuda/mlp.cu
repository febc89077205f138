// The MLP. In bf16 cuBLASLt does the GELU and its slope beside its products where it can; the rest, and f32, are own
// kernels.

#include "gpu_intrinsics.hpp"
#include "ops/cuda/cuda_ops.hpp"
#include "ops/cuda/dense_rows.hpp"
#include "ops/cuda/products.hpp"

namespace vitrail::cuda {

namespace {

constexpr int kThreads = kLanes * kRowsAtOnce;
constexpr float kCubic = 0.044715F;
constexpr float kScale = 0.7978845608028654F;  // sqrt(2 / pi)

/// gelu(u) = u/2 (1 + th), th = tanh(kScale (u + kCubic u^3));
/// gelu'(u) = (1 + th)/2 + u/2 (1 - th^2) kScale (1 + 3 kCubic u^2)
struct Gelu {
  float value, slope;
  __device__ __forceinline__ explicit Gelu(float u) {
    const float square = u * u;
    const float th = tanhf(kScale * fmaf(kCubic * square, u, u));
    const float half = 0.5F * (1.0F + th);
    value = u * half;
    slope = fmaf(0.5F * u * fmaf(-th, th, 1.0F), kScale * fmaf(3.0F * kCubic, square, 1.0F), half);
  }
};

// h = gelu(u) mask; mask may be null
template <class T, int V>
__global__ void __launch_bounds__(kThreads)
    gelu_kernel(Rows r, const T* __restrict__ u, const float* __restrict__ mask, T* __restrict__ h) {
  const Place<V> place(r);
  if (place.column >= r.n) return;
#pragma unroll 2
  for (std::int64_t row = place.first + threadIdx.y; row < place.end; row += kRowsAtOnce) {
    const std::int64_t at = (place.block * r.rows + row) * r.n + place.column;
    float x[V];
    load<V>(u + at, x);
#pragma unroll
    for (int i = 0; i < V; ++i) x[i] = Gelu(x[i]).value;
    if (mask != nullptr) {
      float factor[V];
      load<V>(mask + at, factor);
#pragma unroll
      for (int i = 0; i < V; ++i) x[i] *= factor[i];
    }
    store<V>(x, h + at);
  }
}

// h = gelu(u) mask; du = dh mask gelu'(u), where du holds dh before, or already du (finished); column sums of du.
template <class T, int V>
__global__ void __launch_bounds__(kThreads)
    gelu_backward_kernel(Rows r, const T* __restrict__ u, const float* __restrict__ mask, bool finished,
                         T* __restrict__ h, T* __restrict__ du, float* __restrict__ partial) {
  const Place<V> place(r);
  float sums[V] = {};
  if (place.column < r.n) {
#pragma unroll 2
    for (std::int64_t row = place.first + threadIdx.y; row < place.end; row += kRowsAtOnce) {
      const std::int64_t at = (place.block * r.rows + row) * r.n + place.column;
      float x[V], d[V];
      load<V>(u + at, x);
      load<V>(du + at, d);
      float factor[V];
#pragma unroll
      for (int i = 0; i < V; ++i) factor[i] = 1.0F;
      if (mask != nullptr) load<V>(mask + at, factor);
#pragma unroll
      for (int i = 0; i < V; ++i) {
        const Gelu gelu(x[i]);
        x[i] = gelu.value * factor[i];
        if (!finished) d[i] = d[i] * factor[i] * gelu.slope;
        sums[i] += d[i];
      }
      store<V>(x, h + at);
      if (!finished) store<V>(d, du + at);
    }
  }
  write_partial<V>(r, place, sums, shared_memory<ColumnSums<V>>(), partial);
}

const float* mask_of(const ConstTensor& mask) { return mask ? mask.as<float>() : nullptr; }

void expect_one_dtype(const ConstTensor& u, const ConstTensor& h, const ConstTensor& du) {
  VITRAIL_EXPECT(u.dtype == h.dtype && h.dtype == du.dtype, ExitCode::other, "u, h and du of an MLP differ in dtype",
                 "its kernels are for one of them", "This is a bug in the calling layer");
}

}  // namespace

// u = x w1 + b1;  h = gelu(u) mask;  y = h w2 + b2 + residual
void CudaOps::run(const MlpForward& a) {
  const Blocks up{a.x.shape[0], a.x.shape[1], a.x.shape[2], a.x.shape[3], a.u.shape[3]};
  const Rows hidden{up.count(), up.rows, up.out};
  Products products(gemm_, scratch_, stream(), stored());
  if (!a.y) {
    products.reserve({a.x, a.w1, a.b1});
    products.forward(up, products.input(a.x), products.input(a.w1), a.b1, {}, a.u);
    return;
  }
  expect_one_dtype(a.u, a.h, a.h);
  products.reserve({a.x, a.w1, a.w2, a.b1, a.b2, a.h});
  const void* const x = products.input(a.x);
  const void* const w1 = products.input(a.w1);
  const void* const w2 = products.input(a.w2);
  if (a.hidden_mask || !products.forward_gelu(up, x, w1, a.b1, a.u, a.h)) {
    products.forward(up, x, w1, a.b1, {}, a.u);
    dispatch_stored(a.u.dtype, [&]<class T>() {
      dispatch_vectors(vectors_fit(up.out, {a.u.data, a.h.data, a.hidden_mask.data}), [&]<int V>() {
        launch(gelu_kernel<T, V>, launch_of<V>(hidden, stream()), hidden, data_of<T>(ConstTensor(a.u)),
               mask_of(a.hidden_mask), data_of<T>(a.h));
      });
    });
  }
  products.forward(up.reversed(), products.input(a.h), w2, a.b2, a.residual, a.y);
}

// h = gelu(u) mask;       dw2 = h^T dy;  db2 = column sums of dy;  dh = dy w2^T
// du = dh mask gelu'(u);  dw1 = x^T du;  db1 = column sums of du;  dx = du w1^T
// The library's own sums of du's columns would be rounded to its dtype: they are ours, made while h is.
void CudaOps::run(const MlpBackward& a) {
  expect_one_dtype(a.u, a.h, a.du);
  const Blocks up{a.x.shape[0], a.x.shape[1], a.x.shape[2], a.x.shape[3], a.u.shape[3]};
  const Blocks down = up.reversed();
  const Rows hidden{up.count(), up.rows, up.out};
  Products products(gemm_, scratch_, stream(), stored());
  products.reserve({a.dy, a.x, a.w1, a.w2, a.h, a.du});
  const void* const dy = products.input_and_bias_gradient(down, a.dy, a.db2);
  const void* const w2 = products.input(a.w2);
  const bool finished = !a.hidden_mask && products.input_gradient_gelu(down, dy, w2, a.u, a.du);
  if (!finished) products.input_gradient(down, dy, w2, {}, a.du);

  float* const partial = products.partial_sums(up);
  dispatch_stored(a.u.dtype, [&]<class T>() {
    dispatch_vectors(vectors_fit(up.out, {a.u.data, a.h.data, a.du.data, a.hidden_mask.data}), [&]<int V>() {
      Launch how = launch_of<V>(hidden, stream());
      how.shared_bytes = sizeof(ColumnSums<V>);
      launch(gelu_backward_kernel<T, V>, how, hidden, data_of<T>(a.u), mask_of(a.hidden_mask), finished,
             data_of<T>(a.h), data_of<T>(a.du), partial);
    });
  });
  products.finish_bias_gradient(up, partial, a.db1.as<float>());

  const void* const x = products.input(a.x);
  const void* const du = products.input(a.du);
  const void* const w1 = products.input(a.w1);
  products.weight_gradient(down, products.input(a.h), dy, a.dw2);
  products.weight_gradient(up, x, du, a.dw1);
  products.input_gradient(up, du, w1, {}, a.dx);
}

}  // namespace vitrail::cuda
