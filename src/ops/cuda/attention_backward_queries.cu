// Attention backward on the tensor cores, first of two kernels: dq, and for every query the two numbers that the second
// (attention_backward_keys.cu) needs of it: log2(e) log_sum_exp and <dout, out>.
//
//   p[t,s] = exp(scale <q[t], k[s]> - log_sum_exp[t])        dp[t,s] = factor[t,s] <dout[t], v[s]>
//   ds[t,s] = p[t,s] (dp[t,s] - <dout[t], out[t]>)           dq[t] = scale * sum over s of ds[t,s] k[s]
//
// One tile = 64 keys, for a block of 128 queries (4 warps of 32; of 16 where heads are wider than 64), Dh = 64:
//   bytes          K and V, 16 KiB, fetched while the tile before is worked on
//   FLOPs          3 * 2 * 128 * 64 * 64 = 3.1 M, 768 mma: about 1200 clocks of a multiprocessor
//   exponentials   8192: 512 clocks
// As in the forward pass an operand B from shared memory feeds two mma. q, dout (64 registers) and dq (64) stay in
// registers; scores and dp exist for 16 keys at a time (32), which still leaves eight independent mma in flight.

#include <limits>

#include "device/cuda/launch.hpp"
#include "ops/cuda/attention_tile.hpp"

namespace vitrail::cuda {
namespace {

constexpr float kLog2E = 1.44269504088896340736F;

template <int kWidth_, bool kShort>
struct QueriesPlan {
  static constexpr int kWidth = kWidth_;
  static constexpr int kOperands = kWidth <= 64 ? 2 : 1;  // A, of 16 queries each, a warp
  static constexpr int kWarps = kShort && kOperands == 2 ? 2 : 4;
  static constexpr int kThreads = 32 * kWarps;
  static constexpr int kQueries = 16 * kOperands * kWarps;
  static constexpr int kGroups = kOperands == 2 ? 1 : 2;  // of 16 keys: a step
  static constexpr int kStages = kShort ? 1 : 2;
  static constexpr int kBlocks = kShort && kOperands == 2 ? 4 : 2;  // per multiprocessor, at least
};

template <class Plan>
struct QueriesShared {
  Tile<Plan::kQueries, Plan::kWidth> q;  // at the end: dq
  Tile<Plan::kQueries, Plan::kWidth> dout;
  Tile<kTileTokens, Plan::kWidth> k[Plan::kStages];
  Tile<kTileTokens, Plan::kWidth> v[Plan::kStages];
  std::uint32_t kept[Plan::kStages][Plan::kQueries][kTileTokens / 32];
};

// What a warp holds of its queries. [m][half]: row 16 m + 8 half + lane / 4.
template <class Plan>
struct QueriesState {
  std::uint32_t q[Plan::kOperands][Plan::kWidth / 16][4];
  std::uint32_t dout[Plan::kOperands][Plan::kWidth / 16][4];
  float dq[Plan::kOperands][Plan::kWidth / 8][4];
  float log_sum[Plan::kOperands][2];   // log2(e) log_sum_exp
  float dout_out[Plan::kOperands][2];  // <dout, out>
};

/// Eight numbers of a token from `column` on; zeros where there are none.
__device__ __forceinline__ uint4 eight_of(const TokenRows<const Bfloat16>& from, int token, int column) {
  uint4 eight = {0, 0, 0, 0};
  if (token >= from.tokens || column >= from.width) return eight;
  const Bfloat16* const source = from.token(token) + column;
  if (from.vectors) return vector_at<uint4>(source);
  const auto number = [&](int i) { return column + i < from.width ? to_float(source[i]) : 0.0F; };
  eight.x = packed(number(0), number(1));
  eight.y = packed(number(2), number(3));
  eight.z = packed(number(4), number(5));
  eight.w = packed(number(6), number(7));
  return eight;
}
__device__ __forceinline__ float dot_of_eight(const uint4& x, const uint4& y, float sum) {
  const std::uint32_t pairs[2][4] = {{x.x, x.y, x.z, x.w}, {y.x, y.y, y.z, y.w}};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 a = unpacked(pairs[0][i]), b = unpacked(pairs[1][i]);
    sum = fmaf(a.y, b.y, fmaf(a.x, b.x, sum));
  }
  return sum;
}

/// <dout, out> and log2(e) log_sum_exp of a warp's queries: to registers and for the second kernel. Lanes l and l + 16
/// share row l of 16.
template <class Plan>
__device__ __forceinline__ void sum_rows(QueriesState<Plan>& state, const AttentionBackwardCall<Bfloat16>& a,
                                         const BlockPlace& place, const QueriesShared<Plan>& s,
                                         const TokenRows<const Bfloat16>& out, int first, int tile_row) {
  const int lane = lane_of_warp();
#pragma unroll
  for (int m = 0; m < Plan::kOperands; ++m) {
    const int row = 16 * m + lane % 16;
    const int query = first + row;
    float sum = 0.0F;
#pragma unroll
    for (int c = 0; c < Plan::kWidth / 16; ++c) {
      const int column = 16 * c + lane / 16 * 8;
      const uint4 of_dout = vector_at<uint4>(&s.dout.x[tile_row + row][column]);
      sum = dot_of_eight(of_dout, eight_of(out, query, column), sum);
    }
    sum += __shfl_xor_sync(0xFFFFFFFFU, sum, 16);
    float log_sum = std::numeric_limits<float>::infinity();  // a query that does not exist has no probabilities
    if (query < a.shape.queries) {
      log_sum = kLog2E * a.log_sum_exp[place.row(a.shape, query)];
      if (lane < 16) a.row_sums[place.row(a.shape, query)] = make_float2(log_sum, sum);
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      state.log_sum[m][half] = __shfl_sync(0xFFFFFFFFU, log_sum, lane / 4 + 8 * half);
      state.dout_out[m][half] = __shfl_sync(0xFFFFFFFFU, sum, lane / 4 + 8 * half);
    }
  }
}

/// Takes a step of 16 kGroups keys into account, which begins at row `first` of the tile; `keys` of them exist.
template <class Plan, bool kDropout>
__device__ __forceinline__ void visit_keys(QueriesState<Plan>& state, const QueriesShared<Plan>& s, int stage,
                                           int first, int keys, float scale, float dropout_scale, int tile_row) {
  constexpr int kOperands = Plan::kOperands;
  constexpr int kGroups = Plan::kGroups;
  const int lane = lane_of_warp();
  float scores[kOperands][2 * kGroups][4] = {};
  float dp[kOperands][2 * kGroups][4] = {};
#pragma unroll
  for (int c = 0; c < Plan::kWidth / 16; ++c) {
#pragma unroll
    for (int group = 0; group < kGroups; ++group) {
      std::uint32_t of_k[4], of_v[4];
      load_b_transposed(of_k, s.k[stage], first + 16 * group, 16 * c);
      load_b_transposed(of_v, s.v[stage], first + 16 * group, 16 * c);
#pragma unroll
      for (int m = 0; m < kOperands; ++m) {
        multiply_add(scores[m][2 * group], scores[m][2 * group + 1], state.q[m][c], of_k);
        multiply_add(dp[m][2 * group], dp[m][2 * group + 1], state.dout[m][c], of_v);
      }
    }
  }
#pragma unroll
  for (int m = 0; m < kOperands; ++m) {
#pragma unroll
    for (int n = 0; n < 2 * kGroups; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int key = 8 * n + lane % 4 * 2 + i % 2;
        float p = exp2_approx(fmaf(scores[m][n][i], scale, -state.log_sum[m][i / 2]));
        if (key >= keys) p = 0.0F;
        if constexpr (kDropout) {
          const std::uint32_t word = s.kept[stage][tile_row + 16 * m + 8 * (i / 2) + lane / 4][first / 32];
          dp[m][n][i] = (word >> (first % 32 + key) & 1U) == 0 ? 0.0F : dp[m][n][i] * dropout_scale;
        }
        scores[m][n][i] = p * (dp[m][n][i] - state.dout_out[m][i / 2]);
      }
    }
  }
#pragma unroll
  for (int group = 0; group < kGroups; ++group) {
    std::uint32_t ds[kOperands][4];
#pragma unroll
    for (int m = 0; m < kOperands; ++m) as_a(ds[m], scores[m][2 * group], scores[m][2 * group + 1]);
#pragma unroll
    for (int c = 0; c < Plan::kWidth / 16; ++c) {
      std::uint32_t of_k[4];
      load_b(of_k, s.k[stage], first + 16 * group, 16 * c);
#pragma unroll
      for (int m = 0; m < kOperands; ++m) multiply_add(state.dq[m][2 * c], state.dq[m][2 * c + 1], ds[m], of_k);
    }
  }
}

template <class Plan>
__device__ __forceinline__ void load_operands(QueriesState<Plan>& state, const QueriesShared<Plan>& s, int tile_row) {
#pragma unroll
  for (int m = 0; m < Plan::kOperands; ++m) {
#pragma unroll
    for (int c = 0; c < Plan::kWidth / 16; ++c) {
      load_a(state.q[m][c], s.q, tile_row + 16 * m, 16 * c);
      load_a(state.dout[m][c], s.dout, tile_row + 16 * m, 16 * c);
    }
#pragma unroll
    for (int n = 0; n < Plan::kWidth / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) state.dq[m][n][i] = 0.0F;
    }
  }
}

template <class Plan, bool kDropout>
__global__ void __launch_bounds__(Plan::kThreads, Plan::kBlocks)
    attention_backward_queries_bf16(AttentionBackwardCall<Bfloat16> a, bool vectors) {
  auto& s = shared_memory<QueriesShared<Plan>>();
  const BlockPlace place(a.shape, a.shape.queries, Plan::kQueries);
  const TokenRows<const Bfloat16> k(a.k, a.shape, place, a.shape.keys, vectors);
  const TokenRows<const Bfloat16> v(a.v, a.shape, place, a.shape.keys, vectors);
  const float scale = 1.0F / sqrtf(static_cast<float>(a.shape.width));
  const int tile_row = 16 * Plan::kOperands * warp_of_block();
  const int first = place.first + tile_row;
  const bool has_queries = first < a.shape.queries;
  const auto load = [&](int stage, int first_key) {
    load_tile<Plan::kThreads>(s.k[stage], k, first_key);
    load_tile<Plan::kThreads>(s.v[stage], v, first_key);
    cp_async_commit();
    if constexpr (kDropout) draw_kept<Plan::kThreads>(s.kept[stage], a.dropout, a.shape, place, place.first, first_key);
  };
  load_tile<Plan::kThreads>(s.q, {a.q, a.shape, place, a.shape.queries, vectors}, place.first);
  load_tile<Plan::kThreads>(s.dout, {a.dout, a.shape, place, a.shape.queries, vectors}, place.first);
  load(0, 0);
  cp_async_wait<0>();
  __syncthreads();
  QueriesState<Plan> state;
  if (has_queries) {
    sum_rows(state, a, place, s, {a.out, a.shape, place, a.shape.queries, vectors}, first, tile_row);
    load_operands(state, s, tile_row);
  }
  for (int key = 0; key < a.shape.keys; key += kTileTokens) {
    const int stage = key / kTileTokens % Plan::kStages;
    const bool more = Plan::kStages > 1 && key + kTileTokens < a.shape.keys;
    if (more) load(1 - stage, key + kTileTokens);  // nobody reads there: all have passed the barrier below
    const int keys = has_queries ? min(a.shape.keys - key, kTileTokens) : 0;
#pragma unroll 1
    for (int step = 0; step < keys; step += 16 * Plan::kGroups)
      visit_keys<Plan, kDropout>(state, s, stage, step, keys - step, kLog2E * scale, a.dropout.scale, tile_row);
    if (!more) break;
    cp_async_wait<0>();
    __syncthreads();
  }
  if (!has_queries) return;
  __syncwarp();
#pragma unroll
  for (int m = 0; m < Plan::kOperands; ++m) keep_results(s.q, tile_row + 16 * m, state.dq[m], scale, scale);
  __syncwarp();
  store_rows<16 * Plan::kOperands>(s.q, tile_row, {a.dq, a.shape, place, a.shape.queries, vectors}, first);
}

template <class Plan>
void start(const AttentionBackwardCall<Bfloat16>& call) {
  launch(
      call.dropout.drops ? attention_backward_queries_bf16<Plan, true> : attention_backward_queries_bf16<Plan, false>,
      {.grid = blocks_of_tiles(call.shape, call.shape.queries, Plan::kQueries),
       .block = Plan::kThreads,
       .shared_bytes = sizeof(QueriesShared<Plan>),
       .stream = call.stream},
      call, vectors_of_16_bytes(call.shape, call.q, call.k, call.v, call.out, call.dout, call.dq));
}

}  // namespace

void run_attention_backward_queries(const AttentionBackwardCall<Bfloat16>& call) {
  const bool is_short = call.shape.queries <= kTileTokens && call.shape.keys <= kTileTokens;
  dispatch_width(call.shape.width, [&]<int kWidth>() {
    (is_short ? start<QueriesPlan<kWidth, true>> : start<QueriesPlan<kWidth, false>>)(call);
  });
}

}  // namespace vitrail::cuda
