// The weights of Soft MoE between tokens and slots. All its products are in f32, in every precision. A team of lanes is
// a warp on a row of [tokens R] or [tokens D], a block on 32 columns of a group or of mu.

#include <cmath>

#include "device/cuda/launch.hpp"
#include "gpu_intrinsics.hpp"
#include "ops/cuda/cuda_ops.hpp"
#include "ops/cuda/leaf_sums.hpp"
#include "ops/cuda/stored.hpp"
#include "ops/cuda/token_lanes.hpp"

namespace vitrail::cuda {
namespace {

constexpr float kEpsilon = 1e-6F;
constexpr int kColumns = 32;      // of a block
constexpr int kColumnTeams = 16;  // threads of a column

/// Sizes of a call; rows = leaves * groups * S.
struct Sizes {
  std::int64_t leaves, groups;  // groups of a leaf
  int tokens, width, slots;     // S, D, R
  [[nodiscard]] std::int64_t rows() const { return leaves * groups * tokens; }
};
template <class Arguments>
Sizes sizes_of(const Arguments& a) {
  return {a.x.shape[0], a.x.shape[1], static_cast<int>(a.x.shape[2]), static_cast<int>(a.mu.shape[0]),
          static_cast<int>(a.mu.shape[1])};
}

// --- rows ------------------------------------------------------------------------------------------------------------

/// rnorm[t] = 1 / sqrt(sum of x[t]^2 + 1e-6)
__global__ void __launch_bounds__(kTokenThreads)
    row_rnorms(const float* x, float* rnorm, std::int64_t rows, int width) {
  const TokenLane<32> at;
  if (at.token >= rows) return;
  float squares = 0.0F;
  for (int i = at.lane; i < width; i += 32) {
    const float v = x[at.token * width + i];
    squares = fmaf(v, v, squares);
  }
  squares = sum_of<32>(squares);
  if (at.lane == 0) rnorm[at.token] = 1.0F / sqrtf(squares + kEpsilon);
}

struct Logits {
  const float* scale;
  const float* noise;  // nullptr: none
  float sigma;
  const float* x_rnorm;
  const float* mu_rnorm;
  float* z;        // [rows R]: logits
  float* combine;  // [rows R]: x mu before, softmax of z over the slots afterwards
  std::int64_t rows;
  int slots;
};
/// Every lane looks at its own elements again and again; the other lanes never do.
__global__ void __launch_bounds__(kTokenThreads) logits_and_combine(Logits a) {
  const TokenLane<32> at;
  if (at.token >= a.rows) return;
  const std::int64_t first = at.token * a.slots;
  const float of_token = *a.scale * a.x_rnorm[at.token];
  float top = -INFINITY;
  for (int r = at.lane; r < a.slots; r += 32) {
    float z = of_token * a.mu_rnorm[r] * a.combine[first + r];
    if (a.noise != nullptr) z = fmaf(a.sigma, a.noise[first + r], z);
    a.z[first + r] = z;
    top = fmaxf(top, z);
  }
  top = largest_of<32>(top);
  float total = 0.0F;
  for (int r = at.lane; r < a.slots; r += 32) {
    const float e = expf(a.z[first + r] - top);
    a.combine[first + r] = e;
    total += e;
  }
  total = sum_of<32>(total);
  for (int r = at.lane; r < a.slots; r += 32) a.combine[first + r] /= total;
}

// --- columns ---------------------------------------------------------------------------------------------------------

struct ColumnShared {
  float of_team[kColumnTeams][kColumns];
};
/// This thread's column of a block of 32, and its share of the column's entries: every kColumnTeams-th.
struct Column {
  __device__ explicit Column(int columns)
      : blocks((columns + kColumns - 1) / kColumns),
        matrix(blockIdx.x / static_cast<unsigned>(blocks)),
        index(static_cast<int>(blockIdx.x) % blocks * kColumns + static_cast<int>(threadIdx.x)),
        team(static_cast<int>(threadIdx.y)),
        there(index < columns) {}
  int blocks;
  std::int64_t matrix;
  int index, team;
  bool there;
};
Launch column_launch(std::int64_t matrices, int columns, cudaStream_t stream) {
  return {.grid = dim3(static_cast<unsigned>(matrices * ((columns + kColumns - 1) / kColumns))),
          .block = dim3(kColumns, kColumnTeams),
          .shared_bytes = sizeof(ColumnShared),
          .stream = stream};
}
/// f over the threads of a column, in their order; all get the result.
template <class F>
__device__ __forceinline__ float over_column(float mine, ColumnShared& shared, const F& f) {
  shared.of_team[threadIdx.y][threadIdx.x] = mine;
  __syncthreads();
  float all = shared.of_team[0][threadIdx.x];
  for (int team = 1; team < kColumnTeams; ++team) all = f(all, shared.of_team[team][threadIdx.x]);
  __syncthreads();
  return all;
}
__device__ __forceinline__ float column_sum(float mine, ColumnShared& shared) {
  return over_column(mine, shared, [](float a, float b) { return a + b; });
}

/// rnorm[r] = 1 / sqrt(sum over D of mu[c,r]^2 + 1e-6)
__global__ void __launch_bounds__(kColumns* kColumnTeams)
    column_rnorms(const float* mu, float* rnorm, int width, int slots) {
  auto& shared = shared_memory<ColumnShared>();
  const Column column(slots);
  float squares = 0.0F;
  for (int c = column.team; column.there && c < width; c += kColumnTeams) {
    const float v = mu[std::int64_t{c} * slots + column.index];
    squares = fmaf(v, v, squares);
  }
  squares = column_sum(squares, shared);
  if (column.there && column.team == 0) rnorm[column.index] = 1.0F / sqrtf(squares + kEpsilon);
}

/// dispatch = softmax of itself over the valid tokens of a group, 0 for the others.
__global__ void __launch_bounds__(kColumns* kColumnTeams)
    softmax_over_tokens(float* dispatch, const std::uint8_t* valid, int tokens, int slots) {
  auto& shared = shared_memory<ColumnShared>();
  const Column column(slots);
  const std::int64_t first = column.matrix * tokens;
  const auto counts = [&](int s) { return valid == nullptr || valid[first + s] != 0; };
  float* const z = dispatch + first * slots + column.index;
  float top = -INFINITY;
  for (int s = column.team; column.there && s < tokens; s += kColumnTeams)
    if (counts(s)) top = fmaxf(top, z[std::int64_t{s} * slots]);
  top = over_column(top, shared, [](float a, float b) { return fmaxf(a, b); });
  float total = 0.0F;
  for (int s = column.team; column.there && s < tokens; s += kColumnTeams)
    if (counts(s)) total += expf(z[std::int64_t{s} * slots] - top);
  total = column_sum(total, shared);
  for (int s = column.team; column.there && s < tokens; s += kColumnTeams) {
    float& weight = z[std::int64_t{s} * slots];
    weight = counts(s) ? expf(weight - top) / total : 0.0F;
  }
}

// --- backward --------------------------------------------------------------------------------------------------------

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
__global__ void __launch_bounds__(kTokenThreads) scaled_dlogits(LogitsBackward a) {
  const TokenLane<32> at;
  if (at.token >= a.rows) return;
  const std::int64_t first = at.token * a.slots;
  const float* const over_tokens = a.inner + at.token / a.tokens * a.slots;
  float over_slots = 0.0F;
  for (int r = at.lane; r < a.slots; r += 32)
    over_slots = fmaf(a.combine[first + r], a.dcombine[first + r], over_slots);
  over_slots = sum_of<32>(over_slots);
  const float of_token = a.x_rnorm[at.token];
  for (int r = at.lane; r < a.slots; r += 32) {
    const float dz = fmaf(a.dispatch[first + r], a.ddispatch[first + r] - over_tokens[r],
                          a.combine[first + r] * (a.dcombine[first + r] - over_slots));
    a.dlogits[first + r] = dz * (of_token * a.mu_rnorm[r]);
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
__global__ void __launch_bounds__(kTokenThreads) input_gradient(InputBackward a) {
  const TokenLane<32> at;
  if (at.token >= a.rows) return;
  const std::int64_t first = at.token * a.width;
  const float rnorm = a.x_rnorm[at.token], scale = *a.scale;
  float inner = 0.0F;
  for (int i = at.lane; i < a.width; i += 32) inner = fmaf(rnorm * a.x[first + i], a.d[first + i], inner);
  inner = sum_of<32>(inner);
  for (int i = at.lane; i < a.width; i += 32) {
    const float across = fmaf(-rnorm * a.x[first + i], inner, a.d[first + i]);
    a.dx[first + i] = fmaf(scale, across, a.dresidual != nullptr ? a.dresidual[first + i] : 0.0F);
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

Launch row_launch(std::int64_t rows, cudaStream_t stream) {
  return {.grid = token_blocks<32>(rows), .block = dim3(kTokenThreads), .stream = stream};
}

}  // namespace

void CudaOps::run(const SoftRouterForward& a) {
  const Sizes s = sizes_of(a);
  const std::int64_t leaf_rows = s.groups * s.tokens;
  auto* const x_rnorm = data_of<float>(a.x_rnorm);
  auto* const mu_rnorm = data_of<float>(a.mu_rnorm);
  auto* const dispatch = data_of<float>(a.dispatch);
  auto* const combine = data_of<float>(a.combine);
  launch(row_rnorms, row_launch(s.rows(), stream()), data_of<float>(a.x), x_rnorm, s.rows(), s.width);
  launch(column_rnorms, column_launch(1, s.slots, stream()), data_of<float>(a.mu), mu_rnorm, s.width, s.slots);
  gemm_.multiply({.m = leaf_rows,
                  .n = s.slots,
                  .k = s.width,
                  .batch = s.leaves,
                  .a = {a.x.data, s.width, leaf_rows * s.width, false},
                  .b = {a.mu.data, s.slots, 0, false},
                  .d = combine,
                  .d_stride = leaf_rows * s.slots});
  launch(logits_and_combine, row_launch(s.rows(), stream()),
         Logits{data_of<float>(a.scale), a.noise ? data_of<float>(a.noise) : nullptr, static_cast<float>(a.noise_std),
                x_rnorm, mu_rnorm, dispatch, combine, s.rows(), s.slots});
  launch(softmax_over_tokens, column_launch(s.leaves * s.groups, s.slots, stream()), dispatch,
         a.valid ? data_of<std::uint8_t>(a.valid) : nullptr, s.tokens, s.slots);
}

// With d = dz x_rnorm mu_rnorm in place of dz both products are with x and mu as they are:
//   dx = dresidual + scale (d mu^T - xh <xh, d mu^T>),  dmu = scale (x^T d - muh <muh, x^T d>),  dscale = <mu, x^T d>
// Each leaf has gradients of its own before leaves are added: rounding does not commute with what follows the product.
void CudaOps::run(const SoftRouterBackward& a) {
  const Sizes s = sizes_of(a);
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
  launch(scaled_dlogits, row_launch(s.rows(), stream()), logits);

  auto* const dx = workspace<float>(Scratch::b, s.rows() * s.width);
  gemm_.multiply({.m = leaf_rows,
                  .n = s.width,
                  .k = s.slots,
                  .batch = s.leaves,
                  .a = {dlogits, s.slots, leaf_rows * s.slots, false},
                  .b = {a.mu.data, s.slots, 0, true},
                  .d = dx,
                  .d_stride = leaf_rows * s.width});
  launch(input_gradient, row_launch(s.rows(), stream()),
         InputBackward{dx, data_of<float>(a.x), data_of<float>(a.x_rnorm), data_of<float>(a.scale),
                       a.dresidual ? data_of<float>(a.dresidual) : nullptr, data_of<float>(a.dx), s.rows(), s.width});

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
