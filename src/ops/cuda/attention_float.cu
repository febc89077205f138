// Attention in f32, forward and backward: the same three kernels as in bf16 (attention_forward.cu,
// attention_backward_*.cu), on plain FMAs and with all the accuracy of f32. It is there to be exact: tiles of 64 x 64
// scores, 4 x 4 a thread, so that 8 vectors from shared memory feed 64 FMAs; nothing is fetched ahead.

#include <limits>

#include "device/cuda/launch.hpp"
#include "ops/cuda/attention_float_tile.hpp"

namespace vitrail::cuda {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

template <int kRows_, int kWidth_>
struct FloatPlan {
  static constexpr int kRows = kRows_;  // queries or keys of a tile
  static constexpr int kWidth = kWidth_;
  static constexpr int kPer = kRows / 16;  // rows of a thread
  using Tokens = FloatTile<kRows, kWidth>;
  using Scores = FloatTile<kRows, kRows>;  // [query][key]
};

template <class Plan>
struct FloatForwardShared {
  typename Plan::Tokens q, k, v;
  typename Plan::Scores p;
  std::uint32_t kept[Plan::kRows][Plan::kRows / 32];
};

/// The factor of key x + 16 j of query row y + i in a dropout: its scale or 0.
template <int kRows>
__device__ __forceinline__ float factor_of(const std::uint32_t (&kept)[kRows][kRows / 32], int query, int key,
                                           float scale) {
  return (kept[query][key / 32] >> (key % 32) & 1U) != 0 ? scale : 0.0F;
}

template <class Plan, bool kDropout>
__global__ void __launch_bounds__(kFloatThreads) attention_forward_float(AttentionForwardCall<float> a, bool vectors) {
  constexpr int kPer = Plan::kPer;
  auto& s = shared_memory<FloatForwardShared<Plan>>();
  const BlockPlace place(a.shape, a.shape.queries, Plan::kRows);
  const float scale = 1.0F / sqrtf(static_cast<float>(a.shape.width));
  const int row = row_of_thread<kPer>();
  float out[kPer][Plan::kWidth / 16] = {};
  float top[kPer], total[kPer] = {};
#pragma unroll
  for (int i = 0; i < kPer; ++i) top[i] = -kInfinity;
  load_tile(s.q, {a.q, a.shape, place, a.shape.queries, vectors}, place.first);
  for (int first = 0; first < a.shape.keys; first += Plan::kRows) {
    load_tile(s.k, {a.k, a.shape, place, a.shape.keys, vectors}, first);
    load_tile(s.v, {a.v, a.shape, place, a.shape.keys, vectors}, first);
    if constexpr (kDropout) draw_kept<kFloatThreads>(s.kept, a.dropout, a.shape, place, place.first, first);
    __syncthreads();
    float p[kPer][kPer];
    multiply_rows(p, s.q, s.k);
#pragma unroll
    for (int i = 0; i < kPer; ++i) {
      float best = top[i];
#pragma unroll
      for (int j = 0; j < kPer; ++j) {
        const bool exists = first + column_of_thread() + 16 * j < a.shape.keys;
        p[i][j] = exists ? p[i][j] * scale : -kInfinity;
        best = fmaxf(best, p[i][j]);
      }
      best = largest_of_row(best);
      const float correction = expf(top[i] - best);  // 0 in the first tile
      top[i] = best;
      float sum = 0.0F;
#pragma unroll
      for (int j = 0; j < kPer; ++j) {
        p[i][j] = expf(p[i][j] - best);
        sum += p[i][j];
        const int key = column_of_thread() + 16 * j;
        if constexpr (kDropout) p[i][j] *= factor_of(s.kept, row + i, key, a.dropout.scale);
        s.p.x[row + i][key] = p[i][j];
      }
      total[i] = fmaf(total[i], correction, sum_over_row(sum));
#pragma unroll
      for (int j = 0; j < Plan::kWidth / 16; ++j) out[i][j] *= correction;
    }
    __syncwarp();  // a row of p is written and read by half a warp
    mix_rows(out, s.v, [&](int key, float(&factors)[kPer]) {
#pragma unroll
      for (int i = 0; i < kPer; ++i) factors[i] = s.p.x[row + i][key];
    });
    __syncthreads();
  }
  float inverse[kPer];
#pragma unroll
  for (int i = 0; i < kPer; ++i) {
    const int query = place.first + row + i;
    inverse[i] = total[i] > 0.0F ? 1.0F / total[i] : 0.0F;  // no key at all: 0
    if (column_of_thread() == 0 && query < a.shape.queries)
      a.log_sum_exp[place.row(a.shape, query)] = top[i] + logf(total[i]);
  }
  store_results<kPer, Plan::kWidth>(out, inverse, {a.out, a.shape, place, a.shape.queries, vectors}, place.first);
}

template <class Plan>
struct FloatBackwardShared {
  typename Plan::Tokens q, dout, k, v;
  typename Plan::Scores p, ds;
  float2 row_sums[Plan::kRows];  // log_sum_exp and <dout, out> of the queries
  std::uint32_t kept[Plan::kRows][Plan::kRows / 32];
};

/// p and ds of the tiles that stand in shared memory, to s.p (times the dropout's factor) and s.ds.
template <class Plan, bool kDropout>
__device__ __forceinline__ void differentiate(FloatBackwardShared<Plan>& s, int keys, float scale,
                                              float dropout_scale) {
  constexpr int kPer = Plan::kPer;
  const int row = row_of_thread<kPer>();
  float scores[kPer][kPer], dp[kPer][kPer];
  multiply_rows(scores, s.q, s.k);
  multiply_rows(dp, s.dout, s.v);
#pragma unroll
  for (int i = 0; i < kPer; ++i) {
    const float2 sums = s.row_sums[row + i];
#pragma unroll
    for (int j = 0; j < kPer; ++j) {
      const int key = column_of_thread() + 16 * j;
      const float p = key < keys ? expf(scores[i][j] * scale - sums.x) : 0.0F;
      float factor = 1.0F;
      if constexpr (kDropout) factor = factor_of(s.kept, row + i, key, dropout_scale);
      s.p.x[row + i][key] = p * factor;
      s.ds.x[row + i][key] = p * (dp[i][j] * factor - sums.y);
    }
  }
}

template <class Plan, bool kDropout>
__global__ void __launch_bounds__(kFloatThreads)
    attention_backward_queries_float(AttentionBackwardCall<float> a, bool vectors) {
  constexpr int kPer = Plan::kPer;
  auto& s = shared_memory<FloatBackwardShared<Plan>>();
  const BlockPlace place(a.shape, a.shape.queries, Plan::kRows);
  const TokenRows<const float> out(a.out, a.shape, place, a.shape.queries, vectors);
  const float scale = 1.0F / sqrtf(static_cast<float>(a.shape.width));
  const int row = row_of_thread<kPer>();
  load_tile(s.q, {a.q, a.shape, place, a.shape.queries, vectors}, place.first);
  load_tile(s.dout, {a.dout, a.shape, place, a.shape.queries, vectors}, place.first);
  __syncthreads();
#pragma unroll
  for (int i = 0; i < kPer; ++i) {
    const int query = place.first + row + i;
    const bool exists = query < a.shape.queries;
    float sum = 0.0F;
    for (int column = column_of_thread(); exists && column < a.shape.width; column += 16)
      sum = fmaf(s.dout.x[row + i][column], out.token(query)[column], sum);
    sum = sum_over_row(sum);
    if (column_of_thread() != 0) continue;
    const float2 sums = make_float2(exists ? a.log_sum_exp[place.row(a.shape, query)] : kInfinity, sum);
    if (exists) a.row_sums[place.row(a.shape, query)] = sums;
    s.row_sums[row + i] = sums;
  }
  float dq[kPer][Plan::kWidth / 16] = {};
  for (int first = 0; first < a.shape.keys; first += Plan::kRows) {
    load_tile(s.k, {a.k, a.shape, place, a.shape.keys, vectors}, first);
    load_tile(s.v, {a.v, a.shape, place, a.shape.keys, vectors}, first);
    if constexpr (kDropout) draw_kept<kFloatThreads>(s.kept, a.dropout, a.shape, place, place.first, first);
    __syncthreads();
    differentiate<Plan, kDropout>(s, a.shape.keys - first, scale, a.dropout.scale);
    __syncthreads();
    mix_rows(dq, s.k, [&](int key, float(&factors)[kPer]) {
#pragma unroll
      for (int i = 0; i < kPer; ++i) factors[i] = s.ds.x[row + i][key];
    });
    __syncthreads();
  }
  float scales[kPer];
#pragma unroll
  for (int i = 0; i < kPer; ++i) scales[i] = scale;
  store_results<kPer, Plan::kWidth>(dq, scales, {a.dq, a.shape, place, a.shape.queries, vectors}, place.first);
}

template <class Plan, bool kDropout>
__global__ void __launch_bounds__(kFloatThreads)
    attention_backward_keys_float(AttentionBackwardCall<float> a, bool vectors) {
  constexpr int kPer = Plan::kPer;
  auto& s = shared_memory<FloatBackwardShared<Plan>>();
  const BlockPlace place(a.shape, a.shape.keys, Plan::kRows);
  const float scale = 1.0F / sqrtf(static_cast<float>(a.shape.width));
  const int row = row_of_thread<kPer>();  // a key
  const int thread = static_cast<int>(threadIdx.x);
  float dk[kPer][Plan::kWidth / 16] = {};
  float dv[kPer][Plan::kWidth / 16] = {};
  load_tile(s.k, {a.k, a.shape, place, a.shape.keys, vectors}, place.first);
  load_tile(s.v, {a.v, a.shape, place, a.shape.keys, vectors}, place.first);
  for (int first = 0; first < a.shape.queries; first += Plan::kRows) {
    load_tile(s.q, {a.q, a.shape, place, a.shape.queries, vectors}, first);
    load_tile(s.dout, {a.dout, a.shape, place, a.shape.queries, vectors}, first);
    if (thread < Plan::kRows) {
      const int query = first + thread;
      s.row_sums[thread] =
          query < a.shape.queries ? a.row_sums[place.row(a.shape, query)] : make_float2(kInfinity, 0.0F);
    }
    if constexpr (kDropout) draw_kept<kFloatThreads>(s.kept, a.dropout, a.shape, place, first, place.first);
    __syncthreads();
    differentiate<Plan, kDropout>(s, a.shape.keys - place.first, scale, a.dropout.scale);
    __syncthreads();
    mix_rows(dv, s.dout, [&](int query, float(&factors)[kPer]) {
#pragma unroll
      for (int i = 0; i < kPer; ++i) factors[i] = s.p.x[query][row + i];
    });
    mix_rows(dk, s.q, [&](int query, float(&factors)[kPer]) {
#pragma unroll
      for (int i = 0; i < kPer; ++i) factors[i] = s.ds.x[query][row + i];
    });
    __syncthreads();
  }
  float scales[kPer], ones[kPer];
#pragma unroll
  for (int i = 0; i < kPer; ++i) {
    scales[i] = scale;
    ones[i] = 1.0F;
  }
  store_results<kPer, Plan::kWidth>(dk, scales, {a.dk, a.shape, place, a.shape.keys, vectors}, place.first);
  store_results<kPer, Plan::kWidth>(dv, ones, {a.dv, a.shape, place, a.shape.keys, vectors}, place.first);
}

}  // namespace

void run_attention_forward(const AttentionForwardCall<float>& call) {
  dispatch_float_tile(call.shape.width, [&]<int kRows, int kWidth>() {
    using Plan = FloatPlan<kRows, kWidth>;
    launch(call.dropout.drops ? attention_forward_float<Plan, true> : attention_forward_float<Plan, false>,
           {.grid = blocks_of_tiles(call.shape, call.shape.queries, kRows),
            .block = kFloatThreads,
            .shared_bytes = sizeof(FloatForwardShared<Plan>),
            .stream = call.stream},
           call, vectors_of_16_bytes(call.shape, call.q, call.k, call.v));
  });
}

void run_attention_backward_queries(const AttentionBackwardCall<float>& call) {
  dispatch_float_tile(call.shape.width, [&]<int kRows, int kWidth>() {
    using Plan = FloatPlan<kRows, kWidth>;
    launch(call.dropout.drops ? attention_backward_queries_float<Plan, true>
                              : attention_backward_queries_float<Plan, false>,
           {.grid = blocks_of_tiles(call.shape, call.shape.queries, kRows),
            .block = kFloatThreads,
            .shared_bytes = sizeof(FloatBackwardShared<Plan>),
            .stream = call.stream},
           call, vectors_of_16_bytes(call.shape, call.q, call.k, call.v, call.dout));
  });
}

void run_attention_backward_keys(const AttentionBackwardCall<float>& call) {
  dispatch_float_tile(call.shape.width, [&]<int kRows, int kWidth>() {
    using Plan = FloatPlan<kRows, kWidth>;
    launch(call.dropout.drops ? attention_backward_keys_float<Plan, true> : attention_backward_keys_float<Plan, false>,
           {.grid = blocks_of_tiles(call.shape, call.shape.keys, kRows),
            .block = kFloatThreads,
            .shared_bytes = sizeof(FloatBackwardShared<Plan>),
            .stream = call.stream},
           call, vectors_of_16_bytes(call.shape, call.q, call.k, call.v, call.dout));
  });
}

}  // namespace vitrail::cuda
