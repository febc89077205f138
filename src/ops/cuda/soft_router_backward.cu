// The gradients of the weights of Soft MoE.

#include "ops/cuda/cuda_ops.hpp"
#include "ops/cuda/leaf_sums.hpp"
#include "ops/cuda/soft_lanes.hpp"

namespace vitrail::cuda {
namespace {

struct LogitsBackward {
  const float *ddispatch, *dcombine, *dispatch, *combine;  // [rows R]
  const float *x_rnorm, *mu_rnorm;
  float* inner;    // [leaves * groups R]: sum over the tokens of dispatch ddispatch
  float* dlogits;  // [rows R]; may be ddispatch
  std::int64_t rows;
  int tokens, slots;
};
__global__ void __launch_bounds__(kColumns* kColumnTeams) inner_over_tokens(LogitsBackward a) {
  auto& shared = shared_memory<ColumnShared>();
  const Column column(a.slots);
  float inner = 0.0F;
  for (int s = column.team; column.there && s < a.tokens; s += kColumnTeams) {
    const std::int64_t i = (column.matrix * a.tokens + s) * a.slots + column.index;
    inner = fmaf(a.dispatch[i], a.ddispatch[i], inner);
  }
  inner = column_sum(inner, shared);
  if (column.there && column.team == 0) a.inner[column.matrix * a.slots + column.index] = inner;
}
/// d = dz x_rnorm mu_rnorm: with it both products are with x and mu as they are.
template <bool aligned>
__global__ void __launch_bounds__(kTokenThreads) scaled_dlogits(LogitsBackward a) {
  const TokenLane<32> at;
  if (at.token >= a.rows) return;
  const std::int64_t first = at.token * a.slots;
  const float* const over_tokens = a.inner + at.token / a.tokens * a.slots;
  float over_slots = 0.0F;
#pragma unroll 2
  for (int r = at.lane * 4; r < a.slots; r += kRowStep) {
    const Four p = load_four<aligned>(a.combine + first, r, a.slots);
    const Four dp = load_four<aligned>(a.dcombine + first, r, a.slots);
#pragma unroll
    for (int k = 0; k < 4; ++k) over_slots = fmaf(p.v[k], dp.v[k], over_slots);
  }
  over_slots = sum_of<32>(over_slots);
  const float of_token = a.x_rnorm[at.token];
  for (int r = at.lane * 4; r < a.slots; r += kRowStep) {
    const Four p = load_four<aligned>(a.combine + first, r, a.slots);
    const Four dp = load_four<aligned>(a.dcombine + first, r, a.slots);
    const Four q = load_four<aligned>(a.dispatch + first, r, a.slots);
    const Four dq = load_four<aligned>(a.ddispatch + first, r, a.slots);
    const Four inner = load_constant_four<aligned>(over_tokens, r, a.slots);
    const Four mu_rnorm = load_constant_four<aligned>(a.mu_rnorm, r, a.slots);
    Four d;
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const float dz = fmaf(q.v[k], dq.v[k] - inner.v[k], p.v[k] * (dp.v[k] - over_slots));
      d.v[k] = dz * (of_token * mu_rnorm.v[k]);
    }
    store_four<aligned>(d, a.dlogits + first, r, a.slots);
  }
}

struct InputBackward {
  const float* d;  // [rows D]: dlogits mu^T
  const float* x;
  const float* x_rnorm;
  const float* scale;
  const float* dresidual;  // nullptr: none; may be dx
  float* dx;
  std::int64_t rows;
  int width;
};
/// dx = dresidual + scale (d - xh <xh, d>)
template <bool aligned>
__global__ void __launch_bounds__(kTokenThreads) input_gradient(InputBackward a) {
  const TokenLane<32> at;
  if (at.token >= a.rows) return;
  const std::int64_t first = at.token * a.width;
  const float rnorm = a.x_rnorm[at.token], scale = *a.scale;
  float inner = 0.0F;
#pragma unroll 2
  for (int i = at.lane * 4; i < a.width; i += kRowStep) {
    const Four x = load_four<aligned>(a.x + first, i, a.width), d = load_four<aligned>(a.d + first, i, a.width);
#pragma unroll
    for (int k = 0; k < 4; ++k) inner = fmaf(rnorm * x.v[k], d.v[k], inner);
  }
  inner = sum_of<32>(inner);
  for (int i = at.lane * 4; i < a.width; i += kRowStep) {
    const Four x = load_four<aligned>(a.x + first, i, a.width), d = load_four<aligned>(a.d + first, i, a.width);
    Four dx{};
    if (a.dresidual != nullptr) dx = load_four<aligned>(a.dresidual + first, i, a.width);
#pragma unroll
    for (int k = 0; k < 4; ++k) dx.v[k] = fmaf(scale, fmaf(-rnorm * x.v[k], inner, d.v[k]), dx.v[k]);
    store_four<aligned>(dx, a.dx + first, i, a.width);
  }
}

struct SlotsBackward {
  const float* mu;
  const float* mu_rnorm;
  const float* scale;
  float* d;      // [leaves D R]: x^T dlogits before, dmu of the leaf afterwards
  float* inner;  // [leaves R]: <mu, x^T dlogits>
  int width, slots;
};
/// dmu = scale (d - mu mu_rnorm^2 <mu, d>) of a leaf
__global__ void __launch_bounds__(kColumns* kColumnTeams) slots_gradient(SlotsBackward a) {
  auto& shared = shared_memory<ColumnShared>();
  const Column column(a.slots);
  float* const d = a.d + column.matrix * a.width * a.slots;
  float inner = 0.0F;
  for (int c = column.team; column.there && c < a.width; c += kColumnTeams) {
    const std::int64_t i = std::int64_t{c} * a.slots + column.index;
    inner = fmaf(a.mu[i], d[i], inner);
  }
  inner = column_sum(inner, shared);
  if (!column.there) return;
  if (column.team == 0) a.inner[column.matrix * a.slots + column.index] = inner;
  const float rnorm = a.mu_rnorm[column.index], along = inner * rnorm * rnorm, scale = *a.scale;
  for (int c = column.team; c < a.width; c += kColumnTeams) {
    const std::int64_t i = std::int64_t{c} * a.slots + column.index;
    d[i] = scale * fmaf(-a.mu[i], along, d[i]);
  }
}
/// dscale of leaf blockIdx.x, by a warp
__global__ void __launch_bounds__(32) scale_gradient(const float* inner, float* dscale, int slots) {
  double total = 0.0;
  for (int r = static_cast<int>(threadIdx.x); r < slots; r += 32)
    total += static_cast<double>(inner[std::int64_t{blockIdx.x} * slots + r]);
  total = sum_of<32>(total);
  if (threadIdx.x == 0) dscale[blockIdx.x] = static_cast<float>(total);
}

}  // namespace

// With d = dz x_rnorm mu_rnorm in place of dz both products are with x and mu as they are:
//   dx = dresidual + scale (d mu^T - xh <xh, d mu^T>),  dmu = scale (x^T d - muh <muh, x^T d>),  dscale = <mu, x^T d>
// Each leaf has gradients of its own before leaves are added: rounding does not commute with what follows the product.
void CudaOps::run(const SoftRouterBackward& a) {
  const SoftSizes s = soft_sizes_of(a);
  const std::int64_t leaf_rows = s.groups * s.tokens, weights = std::int64_t{s.width} * s.slots;
  auto* const dlogits = data_of<float>(a.dlogits);
  const LogitsBackward logits{data_of<float>(a.ddispatch),
                              data_of<float>(a.dcombine),
                              data_of<float>(a.dispatch),
                              data_of<float>(a.combine),
                              data_of<float>(a.x_rnorm),
                              data_of<float>(a.mu_rnorm),
                              workspace<float>(Scratch::a, s.leaves * s.groups * s.slots),
                              dlogits,
                              s.rows(),
                              s.tokens,
                              s.slots};
  launch(inner_over_tokens, column_launch(s.leaves * s.groups, s.slots, stream()), logits);
  dispatch_bool(rows_aligned_to_fours(s.slots, logits.ddispatch, logits.dcombine, logits.dispatch, logits.combine,
                                      logits.mu_rnorm, logits.inner, dlogits),
                [&]<bool aligned>() { launch(scaled_dlogits<aligned>, row_launch(s.rows(), stream()), logits); });

  auto* const dx = workspace<float>(Scratch::b, s.rows() * s.width);
  gemm_.multiply({.m = leaf_rows,
                  .n = s.width,
                  .k = s.slots,
                  .batch = s.leaves,
                  .a = {dlogits, s.slots, leaf_rows * s.slots, false},
                  .b = {a.mu.data, s.slots, 0, true},
                  .d = dx,
                  .d_stride = leaf_rows * s.width});
  const InputBackward input{dx,
                            data_of<float>(a.x),
                            data_of<float>(a.x_rnorm),
                            data_of<float>(a.scale),
                            data_of<float>(a.dresidual),
                            data_of<float>(a.dx),
                            s.rows(),
                            s.width};
  dispatch_bool(rows_aligned_to_fours(s.width, dx, input.x, input.dresidual, input.dx),
                [&]<bool aligned>() { launch(input_gradient<aligned>, row_launch(s.rows(), stream()), input); });

  auto* const dmu = workspace<float>(Scratch::c, s.leaves * weights);
  auto* const inner = workspace<float>(Scratch::d, s.leaves * (s.slots + 1));
  float* const dscale = inner + s.leaves * s.slots;
  gemm_.multiply({.m = s.width,
                  .n = s.slots,
                  .k = leaf_rows,
                  .batch = s.leaves,
                  .a = {a.x.data, s.width, leaf_rows * s.width, true},
                  .b = {dlogits, s.slots, leaf_rows * s.slots, false},
                  .d = dmu,
                  .d_stride = weights});
  launch(slots_gradient, column_launch(s.leaves, s.slots, stream()),
         SlotsBackward{data_of<float>(a.mu), data_of<float>(a.mu_rnorm), data_of<float>(a.scale), dmu, inner, s.width,
                       s.slots});
  launch(scale_gradient, {.grid = dim3(static_cast<unsigned>(s.leaves)), .block = dim3(32), .stream = stream()}, inner,
         dscale, s.slots);
  launch_tree_of_leaves(dmu, s.leaves, weights, {data_of<float>(a.dmu), 0, weights}, {}, stream());
  launch_tree_of_leaves(dscale, s.leaves, 1, {data_of<float>(a.dscale), 0, 1}, {}, stream());
}

}  // namespace vitrail::cuda
