// The weights of Soft MoE between tokens and slots. All its products are in f32, in every precision.

#include <cmath>

#include "ops/cuda/cuda_ops.hpp"
#include "ops/cuda/soft_lanes.hpp"

namespace vitrail::cuda {
namespace {

constexpr float kEpsilon = 1e-6F;

/// A softmax that sees its arguments one after the other.
struct RunningSoftmax {
  float top = -INFINITY;
  float total = 0.0F;  // of exp(z - top)

  __device__ void add(float z) {
    if (z > top) {
      total *= expf(top - z);
      top = z;
    }
    total += expf(z - top);
  }
  /// The total for another top, not below this one.
  [[nodiscard]] __device__ float total_below(float other) const {
    return total == 0.0F ? 0.0F : total * expf(top - other);
  }
};

/// rnorm[t] = 1 / sqrt(sum of x[t]^2 + 1e-6)
template <bool aligned>
__global__ void __launch_bounds__(kTokenThreads)
    row_rnorms(const float* x, float* rnorm, std::int64_t rows, int width) {
  const TokenLane<32> at;
  if (at.token >= rows) return;
  float squares = 0.0F;
#pragma unroll 2
  for (int i = at.lane * 4; i < width; i += kRowStep) {
    const Four four = load_four<aligned>(x + at.token * width, i, width);
#pragma unroll
    for (int k = 0; k < 4; ++k) squares = fmaf(four.v[k], four.v[k], squares);
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
/// Every lane reads again what it has written itself.
template <bool aligned>
__global__ void __launch_bounds__(kTokenThreads) logits_and_combine(Logits a) {
  const TokenLane<32> at;
  if (at.token >= a.rows) return;
  const std::int64_t first = at.token * a.slots;
  const float of_token = *a.scale * a.x_rnorm[at.token];
  RunningSoftmax mine;
  for (int r = at.lane * 4; r < a.slots; r += kRowStep) {
    Four z = load_four<aligned>(a.combine + first, r, a.slots);
    const Four mu_rnorm = load_constant_four<aligned>(a.mu_rnorm, r, a.slots);
    Four noise{};
    if (a.noise != nullptr) noise = load_four<aligned>(a.noise + first, r, a.slots);
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      z.v[k] = fmaf(a.sigma, noise.v[k], of_token * mu_rnorm.v[k] * z.v[k]);
      if (r + k < a.slots) mine.add(z.v[k]);
    }
    store_four<aligned>(z, a.z + first, r, a.slots);
  }
  const float top = largest_of<32>(mine.top);
  const float total = sum_of<32>(mine.total_below(top));
  for (int r = at.lane * 4; r < a.slots; r += kRowStep) {
    Four weight = load_four<aligned>(a.z + first, r, a.slots);
#pragma unroll
    for (int k = 0; k < 4; ++k) weight.v[k] = expf(weight.v[k] - top) / total;
    store_four<aligned>(weight, a.combine + first, r, a.slots);
  }
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
  RunningSoftmax mine;
#pragma unroll 4
  for (int s = column.team; column.there && s < tokens; s += kColumnTeams)
    if (counts(s)) mine.add(z[std::int64_t{s} * slots]);
  const float top = over_column(mine.top, shared, [](float a, float b) { return fmaxf(a, b); });
  const float total = column_sum(mine.total_below(top), shared);
  for (int s = column.team; column.there && s < tokens; s += kColumnTeams) {
    float& weight = z[std::int64_t{s} * slots];
    weight = counts(s) ? expf(weight - top) / total : 0.0F;
  }
}

}  // namespace

void CudaOps::run(const SoftRouterForward& a) {
  const SoftSizes s = soft_sizes_of(a);
  const std::int64_t leaf_rows = s.groups * s.tokens;
  auto* const x_rnorm = data_of<float>(a.x_rnorm);
  auto* const mu_rnorm = data_of<float>(a.mu_rnorm);
  auto* const dispatch = data_of<float>(a.dispatch);
  auto* const combine = data_of<float>(a.combine);
  dispatch_bool(rows_aligned_to_fours(s.width, data_of<float>(a.x)), [&]<bool aligned>() {
    launch(row_rnorms<aligned>, row_launch(s.rows(), stream()), data_of<float>(a.x), x_rnorm, s.rows(), s.width);
  });
  launch(column_rnorms, column_launch(1, s.slots, stream()), data_of<float>(a.mu), mu_rnorm, s.width, s.slots);
  gemm_.multiply({.m = leaf_rows,
                  .n = s.slots,
                  .k = s.width,
                  .batch = s.leaves,
                  .a = {a.x.data, s.width, leaf_rows * s.width, false},
                  .b = {a.mu.data, s.slots, 0, false},
                  .d = combine,
                  .d_stride = leaf_rows * s.slots});
  const Logits logits{data_of<float>(a.scale),
                      data_of<float>(a.noise),
                      static_cast<float>(a.noise_std),
                      x_rnorm,
                      mu_rnorm,
                      dispatch,
                      combine,
                      s.rows(),
                      s.slots};
  dispatch_bool(rows_aligned_to_fours(s.slots, logits.noise, mu_rnorm, dispatch, combine),
                [&]<bool aligned>() { launch(logits_and_combine<aligned>, row_launch(s.rows(), stream()), logits); });
  launch(softmax_over_tokens, column_launch(s.leaves * s.groups, s.slots, stream()), dispatch,
         data_of<std::uint8_t>(a.valid), s.tokens, s.slots);
}

}  // namespace vitrail::cuda
