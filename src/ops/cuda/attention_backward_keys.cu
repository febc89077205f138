// Attention backward on the tensor cores, second of two kernels: dk and dv, a tile of keys a block, one pass over the
// queries. Nothing is added atomically: a key's sums are one warp's, over the queries in their order.
//
//   dv[s] = sum over t of factor[t,s] p[t,s] dout[t]         dk[s] = scale * sum over t of ds[t,s] q[t]
//
// with p and ds as in attention_backward_queries.cu. The products are transposed (scores: keys down, queries across),
// so p and ds leave the mma in the layout in which the next mma takes its A.
//
// ds is split in two bf16 numbers, ds = high + low, and multiplied twice: the sum over the keys of a query's ds is
// zero, and the gradient of the keys' bias, which is the sum of dk over the keys, consists of nothing but ds' rounding.
//
// One tile = 64 queries, for a block of 64 keys (4 warps of 16), Dh = 64:
//   bytes          q and dout, 16 KiB, fetched while the tile before is worked on
//   FLOPs          5 * 2 * 64 * 64 * 64 = 2.6 M (one of the five for the low half), 640 mma: about 1000 clocks
//   exponentials   4096: 256 clocks
// A warp has one operand A (16 keys), for its results alone take 64 registers; with k and v (32) and 32 queries at a
// time (32) three blocks fit a multiprocessor, and the others work while one waits for shared memory.

#include <limits>

#include "device/cuda/launch.hpp"
#include "ops/cuda/attention_tile.hpp"

namespace vitrail::cuda {
namespace {

constexpr float kLog2E = 1.44269504088896340736F;

template <int kWidth_>
struct KeysPlan {
  static constexpr int kWidth = kWidth_;
  static constexpr int kWarps = kTileTokens / 16;
  static constexpr int kThreads = 32 * kWarps;
  static constexpr int kGroups = kWidth <= 96 ? 2 : 1;  // of 16 queries: a step
  static constexpr bool kHolds = kWidth <= 96;          // k and v in registers
  static constexpr int kBlocks = kWidth <= 64 ? 3 : 2;  // per multiprocessor, at least
};

template <class Plan>
struct KeysShared {
  Tile<kTileTokens, Plan::kWidth> k;  // at the end: dk
  Tile<kTileTokens, Plan::kWidth> v;  // at the end: dv
  Tile<kTileTokens, Plan::kWidth> q[2];
  Tile<kTileTokens, Plan::kWidth> dout[2];
  alignas(16) float2 row_sums[2][kTileTokens];
  std::uint32_t kept[2][kTileTokens][kTileTokens / 32];
};

// What a warp holds of its 16 keys.
template <class Plan>
struct KeysState {
  std::uint32_t k[Plan::kWidth / 16][4];
  std::uint32_t v[Plan::kWidth / 16][4];
  float dk[Plan::kWidth / 8][4];
  float dv[Plan::kWidth / 8][4];
};

/// scores = k q^T and dp = v dout^T of the warp's keys and 16 kGroups queries from row `first` of the tile on.
template <class Plan>
__device__ __forceinline__ void score(float (&scores)[2 * Plan::kGroups][4], float (&dp)[2 * Plan::kGroups][4],
                                      const KeysState<Plan>& state, const KeysShared<Plan>& s, int stage, int first) {
#pragma unroll
  for (int c = 0; c < Plan::kWidth / 16; ++c) {
    std::uint32_t k[4], v[4];
    if constexpr (!Plan::kHolds) {
      load_a(k, s.k, 16 * warp_of_block(), 16 * c);
      load_a(v, s.v, 16 * warp_of_block(), 16 * c);
    }
#pragma unroll
    for (int group = 0; group < Plan::kGroups; ++group) {
      std::uint32_t of_q[4], of_dout[4];
      load_b_transposed(of_q, s.q[stage], first + 16 * group, 16 * c);
      load_b_transposed(of_dout, s.dout[stage], first + 16 * group, 16 * c);
      if constexpr (Plan::kHolds) {
        multiply_add(scores[2 * group], scores[2 * group + 1], state.k[c], of_q);
        multiply_add(dp[2 * group], dp[2 * group + 1], state.v[c], of_dout);
      } else {
        multiply_add(scores[2 * group], scores[2 * group + 1], k, of_q);
        multiply_add(dp[2 * group], dp[2 * group + 1], v, of_dout);
      }
    }
  }
}

/// Takes a step of 16 kGroups queries into account, which begins at row `first` of the tile. Queries that do not exist
/// have an infinite log_sum_exp, so p = ds = 0.
template <class Plan, bool kDropout>
__device__ __forceinline__ void visit_queries(KeysState<Plan>& state, const KeysShared<Plan>& s, int stage, int first,
                                              float scale, float dropout_scale) {
  const int lane = lane_of_warp();
  float p[2 * Plan::kGroups][4] = {};   // scores at first; 0 where dropped
  float ds[2 * Plan::kGroups][4] = {};  // dp at first
  score(p, ds, state, s, stage, first);
#pragma unroll
  for (int n = 0; n < 2 * Plan::kGroups; ++n) {
    const int query = first + 8 * n + lane % 4 * 2;
    const float4 rows = vector_at<float4>(&s.row_sums[stage][query]);  // of two queries
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float log_sum = i % 2 == 0 ? rows.x : rows.z;
      const float dout_out = i % 2 == 0 ? rows.y : rows.w;
      const float probability = exp2_approx(fmaf(p[n][i], scale, -log_sum));
      p[n][i] = probability;
      if constexpr (kDropout) {
        const int key = 16 * warp_of_block() + 8 * (i / 2) + lane / 4;
        const bool kept = (s.kept[stage][query + i % 2][key / 32] >> (key % 32) & 1U) != 0;
        ds[n][i] = kept ? ds[n][i] * dropout_scale : 0.0F;
        p[n][i] = kept ? probability : 0.0F;
      }
      ds[n][i] = probability * (ds[n][i] - dout_out);
    }
  }
#pragma unroll
  for (int group = 0; group < Plan::kGroups; ++group) {
    std::uint32_t of_p[4], high[4], low[4];
    as_a(of_p, p[2 * group], p[2 * group + 1]);
    as_a(high, ds[2 * group], ds[2 * group + 1]);
    rest_as_a(low, high, ds[2 * group], ds[2 * group + 1]);
#pragma unroll
    for (int c = 0; c < Plan::kWidth / 16; ++c) {
      std::uint32_t of_dout[4], of_q[4];
      load_b(of_dout, s.dout[stage], first + 16 * group, 16 * c);
      load_b(of_q, s.q[stage], first + 16 * group, 16 * c);
      multiply_add(state.dv[2 * c], state.dv[2 * c + 1], of_p, of_dout);
      multiply_add(state.dk[2 * c], state.dk[2 * c + 1], high, of_q);
      multiply_add(state.dk[2 * c], state.dk[2 * c + 1], low, of_q);
    }
  }
}

template <class Plan>
__device__ __forceinline__ void begin(KeysState<Plan>& state, const KeysShared<Plan>& s) {
#pragma unroll
  for (int c = 0; c < Plan::kWidth / 16; ++c) {
    if constexpr (Plan::kHolds) {
      load_a(state.k[c], s.k, 16 * warp_of_block(), 16 * c);
      load_a(state.v[c], s.v, 16 * warp_of_block(), 16 * c);
    }
  }
#pragma unroll
  for (int n = 0; n < Plan::kWidth / 8; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) state.dk[n][i] = state.dv[n][i] = 0.0F;
  }
}

template <class Plan, bool kDropout>
__global__ void __launch_bounds__(Plan::kThreads, Plan::kBlocks)
    attention_backward_keys_bf16(AttentionBackwardCall<Bfloat16> a, bool vectors) {
  auto& s = shared_memory<KeysShared<Plan>>();
  const BlockPlace place(a.shape, a.shape.keys, kTileTokens);
  const TokenRows<const Bfloat16> q(a.q, a.shape, place, a.shape.queries, vectors);
  const TokenRows<const Bfloat16> dout(a.dout, a.shape, place, a.shape.queries, vectors);
  const float scale = 1.0F / sqrtf(static_cast<float>(a.shape.width));
  const int thread = thread_of_block();
  const int tile_row = 16 * warp_of_block();
  const int first = place.first + tile_row;
  const bool has_keys = first < a.shape.keys;
  // Starts to load a tile of queries and returns the thread's query's sums, which it is to store when there is time.
  const auto load = [&](int stage, int first_query) {
    load_tile<Plan::kThreads>(s.q[stage], q, first_query);
    load_tile<Plan::kThreads>(s.dout[stage], dout, first_query);
    cp_async_commit();
    float2 sums = make_float2(std::numeric_limits<float>::infinity(), 0.0F);
    if (thread < kTileTokens && first_query + thread < a.shape.queries)
      sums = a.row_sums[place.row(a.shape, first_query + thread)];
    if constexpr (kDropout)
      draw_kept<Plan::kThreads>(s.kept[stage], a.dropout, a.shape, place, first_query, place.first);
    return sums;
  };
  load_tile<Plan::kThreads>(s.k, {a.k, a.shape, place, a.shape.keys, vectors}, place.first);
  load_tile<Plan::kThreads>(s.v, {a.v, a.shape, place, a.shape.keys, vectors}, place.first);
  float2 sums = load(0, 0);
  if (thread < kTileTokens) s.row_sums[0][thread] = sums;
  cp_async_wait<0>();
  __syncthreads();
  KeysState<Plan> state;
  begin(state, s);
  for (int query = 0; query < a.shape.queries; query += kTileTokens) {
    const int stage = query / kTileTokens % 2;
    const bool more = query + kTileTokens < a.shape.queries;
    if (more) sums = load(1 - stage, query + kTileTokens);  // nobody reads there: all have passed the barrier below
    const int queries = has_keys ? min(a.shape.queries - query, kTileTokens) : 0;
#pragma unroll 1
    for (int step = 0; step < queries; step += 16 * Plan::kGroups)
      visit_queries<Plan, kDropout>(state, s, stage, step, kLog2E * scale, a.dropout.scale);
    if (!more) break;
    if (thread < kTileTokens) s.row_sums[1 - stage][thread] = sums;
    cp_async_wait<0>();
    __syncthreads();
  }
  if (!has_keys) return;
  __syncwarp();
  keep_results(s.k, tile_row, state.dk, scale, scale);
  keep_results(s.v, tile_row, state.dv, a.dropout.scale, a.dropout.scale);
  __syncwarp();
  store_rows<16>(s.k, tile_row, {a.dk, a.shape, place, a.shape.keys, vectors}, first);
  store_rows<16>(s.v, tile_row, {a.dv, a.shape, place, a.shape.keys, vectors}, first);
}

template <class Plan>
void start(const AttentionBackwardCall<Bfloat16>& call) {
  launch(call.dropout.drops ? attention_backward_keys_bf16<Plan, true> : attention_backward_keys_bf16<Plan, false>,
         {.grid = blocks_of_tiles(call.shape, call.shape.keys, kTileTokens),
          .block = Plan::kThreads,
          .shared_bytes = sizeof(KeysShared<Plan>),
          .stream = call.stream},
         call, vectors_of_16_bytes(call.shape, call.q, call.k, call.v, call.dout, call.dk, call.dv));
}

}  // namespace

void run_attention_backward_keys(const AttentionBackwardCall<Bfloat16>& call) {
  dispatch_width(call.shape.width, [&]<int kWidth>() { start<KeysPlan<kWidth>>(call); });
}

}  // namespace vitrail::cuda
