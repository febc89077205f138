// Attention forward on the tensor cores: one image, head and tile of queries a block, one pass over the keys with the
// softmax kept up to date in registers; neither scores nor probabilities leave the multiprocessor.
//
// One tile = 64 keys, for a block of 128 queries (4 warps of 32), Dh = 64:
//   bytes          K and V, 16 KiB from L2 or HBM, fetched while the tile before is worked on
//   FLOPs          2 * 128 * 64 * 64 for q k^T and as many for p v: 2.1 M, 512 mma
//   exponentials   128 * 64 = 8192: 16 a clock and multiprocessor, 512 clocks, against about 800 for the mma
// A warp has 32 queries (two operands A) because every operand B that it reads from shared memory then feeds two mma:
// 128 bytes for each, where shared memory gives 128 a clock; with 16 queries it would be the bottleneck. 64 keys a step
// because results are rescaled once a step. Registers at Dh = 64: out 64, scores 64, q 32. Heads wider than 80 read q
// from shared memory again, which leaves room for their results. Up to 64 tokens (S/32) a block has two warps and one
// tile, so that as many heads as possible wait for HBM together.

#include <limits>

#include "device/cuda/launch.hpp"
#include "ops/cuda/attention_tile.hpp"

namespace vitrail::cuda {
namespace {

constexpr float kLog2E = 1.44269504088896340736F;

template <int kWidth, bool kShort>
struct ForwardPlan {
  static constexpr int kWarps = kShort ? 2 : 4;
  static constexpr int kThreads = 32 * kWarps;
  static constexpr int kQueries = 32 * kWarps;
  static constexpr int kStages = kShort ? 1 : 2;
  static constexpr int kBlocks =
      kShort ? (kWidth <= 64 ? 6 : 4) : (kWidth <= 32 ? 3 : 2);        // per multiprocessor, at least
  static constexpr int kGroups = 2;                                    // of 16 keys: a step
  static constexpr bool kHoldsQueries = kWidth <= (kShort ? 48 : 64);  // in registers
};

template <int kWidth, bool kShort>
struct ForwardShared {
  using Plan = ForwardPlan<kWidth, kShort>;
  Tile<Plan::kQueries, kWidth> q;  // at the end: out
  Tile<kTileTokens, kWidth> k[Plan::kStages];
  Tile<kTileTokens, kWidth> v[Plan::kStages];
  std::uint32_t kept[Plan::kStages][Plan::kQueries][kTileTokens / 32];
};

// What a warp knows of its 32 queries. Rows: row g of 8 of [m][half] is query 16 m + 8 half + g, and the lane's g is
// lane / 4.
template <int kWidth>
struct ForwardState {
  float out[2][kWidth / 8][4];  // not normalised
  float top[2][2];              // largest score so far, not scaled
  float total[2][2];            // this lane's part of the sum of exp(scale (score - top))
};

/// scores[m][n] = q k^T of 32 queries and `groups` times 16 keys, from row `first` of the tile on.
template <int kWidth, bool kWhole, int kGroups, class Shared>
__device__ __forceinline__ void score(float (&scores)[2][2 * kGroups][4], const Shared& s, int stage, int first,
                                      int groups, const std::uint32_t (&held)[2][kWidth / 16][4]) {
  using Plan = typename Shared::Plan;
#pragma unroll
  for (int c = 0; c < kWidth / 16; ++c) {
    std::uint32_t a[2][4];
#pragma unroll
    for (int m = 0; m < 2; ++m) {
      if constexpr (!Plan::kHoldsQueries) load_a(a[m], s.q, 32 * warp_of_block() + 16 * m, 16 * c);
    }
#pragma unroll
    for (int group = 0; group < kGroups; ++group) {
      if (!kWhole && group >= groups) continue;
      std::uint32_t b[4];
      load_b_transposed(b, s.k[stage], first + 16 * group, 16 * c);
#pragma unroll
      for (int m = 0; m < 2; ++m) {
        if constexpr (Plan::kHoldsQueries) {
          multiply_add(scores[m][2 * group], scores[m][2 * group + 1], held[m][c], b);
        } else {
          multiply_add(scores[m][2 * group], scores[m][2 * group + 1], a[m], b);
        }
      }
    }
  }
}

/// Turns the scores of query row (m, half) into probabilities under the largest score so far, which it may raise.
template <int kGroups, int kWidth>
__device__ __forceinline__ void exponentiate(float (&scores)[2][2 * kGroups][4], ForwardState<kWidth>& state, int m,
                                             int half, float scale) {
  float top = state.top[m][half];
#pragma unroll
  for (int n = 0; n < 2 * kGroups; ++n) top = fmaxf(top, fmaxf(scores[m][n][2 * half], scores[m][n][2 * half + 1]));
  top = fmaxf(top, __shfl_xor_sync(0xFFFFFFFFU, top, 1));
  top = fmaxf(top, __shfl_xor_sync(0xFFFFFFFFU, top, 2));
  const float correction = exp2_approx((state.top[m][half] - top) * scale);  // 0 in the first tile
  const float offset = -top * scale;
  float total = state.total[m][half] * correction;
#pragma unroll
  for (int n = 0; n < 2 * kGroups; ++n) {
#pragma unroll
    for (int i = 2 * half; i < 2 * half + 2; ++i) {
      scores[m][n][i] = exp2_approx(fmaf(scores[m][n][i], scale, offset));
      total += scores[m][n][i];
    }
  }
  state.top[m][half] = top;
  state.total[m][half] = total;
#pragma unroll
  for (int n = 0; n < kWidth / 8; ++n) {
    state.out[m][n][2 * half] *= correction;
    state.out[m][n][2 * half + 1] *= correction;
  }
}

/// Takes a step of 16 kGroups keys into account, which begins at row `first` of the tile. kWhole: all exist, else the
/// first `keys` do.
template <int kWidth, bool kWhole, bool kDropout, class Shared>
__device__ __forceinline__ void visit_keys(ForwardState<kWidth>& state, const Shared& s, int stage, int first, int keys,
                                           float scale, const std::uint32_t (&held)[2][kWidth / 16][4]) {
  const int lane = lane_of_warp();
  constexpr int kGroups = Shared::Plan::kGroups;
  const int groups = kWhole ? kGroups : (keys + 15) / 16;
  float scores[2][2 * kGroups][4] = {};
  score<kWidth, kWhole, kGroups>(scores, s, stage, first, groups, held);
#pragma unroll
  for (int m = 0; m < 2; ++m) {
    if constexpr (!kWhole) {
#pragma unroll
      for (int n = 0; n < 2 * kGroups; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          if (8 * n + lane % 4 * 2 + i % 2 >= keys) scores[m][n][i] = -std::numeric_limits<float>::infinity();
        }
      }
    }
    exponentiate<kGroups>(scores, state, m, 0, scale);
    exponentiate<kGroups>(scores, state, m, 1, scale);
    if constexpr (kDropout) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const auto& kept = s.kept[stage][32 * warp_of_block() + 16 * m + 8 * (i / 2) + lane / 4];
#pragma unroll
        for (int n = 0; n < 2 * kGroups; ++n) {
          const std::uint32_t word = kept[(first / 8 + n) / 4];
          if ((word >> (8 * (n % 4) + lane % 4 * 2 + i % 2) & 1U) == 0) scores[m][n][i] = 0.0F;
        }
      }
    }
  }
#pragma unroll
  for (int group = 0; group < kGroups; ++group) {
    if (!kWhole && group >= groups) continue;
    std::uint32_t a[2][4];
#pragma unroll
    for (int m = 0; m < 2; ++m) as_a(a[m], scores[m][2 * group], scores[m][2 * group + 1]);
#pragma unroll
    for (int c = 0; c < kWidth / 16; ++c) {
      std::uint32_t b[4];
      load_b(b, s.v[stage], first + 16 * group, 16 * c);
#pragma unroll
      for (int m = 0; m < 2; ++m) multiply_add(state.out[m][2 * c], state.out[m][2 * c + 1], a[m], b);
    }
  }
}

/// Normalises and writes a warp's queries, the first of which is `first`.
template <int kWidth, bool kShort>
__device__ __forceinline__ void finish(const AttentionForwardCall<Bfloat16>& a, const BlockPlace& place,
                                       const TokenRows<Bfloat16>& out, ForwardShared<kWidth, kShort>& s,
                                       ForwardState<kWidth>& state, int first) {
  const int lane = lane_of_warp();
  const int tile_row = 32 * warp_of_block();
  const float scale = 1.0F / sqrtf(static_cast<float>(a.shape.width));
#pragma unroll
  for (int m = 0; m < 2; ++m) {
    float factor[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float total = state.total[m][half];
      total += __shfl_xor_sync(0xFFFFFFFFU, total, 1);
      total += __shfl_xor_sync(0xFFFFFFFFU, total, 2);
      factor[half] = total > 0.0F ? a.dropout.scale / total : 0.0F;  // no key at all: 0
      const int query = first + 16 * m + 8 * half + lane / 4;
      if (lane % 4 == 0 && query < a.shape.queries)
        a.log_sum_exp[place.row(a.shape, query)] = fmaf(state.top[m][half], scale, logf(total));
    }
    keep_results(s.q, tile_row + 16 * m, state.out[m], factor[0], factor[1]);
  }
  __syncwarp();
  store_rows<32>(s.q, tile_row, out, first);
}

template <int kWidth, bool kShort, bool kDropout>
__global__ void __launch_bounds__(ForwardPlan<kWidth, kShort>::kThreads, ForwardPlan<kWidth, kShort>::kBlocks)
    attention_forward_bf16(AttentionForwardCall<Bfloat16> a, bool vectors) {
  using Plan = ForwardPlan<kWidth, kShort>;
  auto& s = shared_memory<ForwardShared<kWidth, kShort>>();
  const BlockPlace place(a.shape, a.shape.queries, Plan::kQueries);
  const TokenRows<const Bfloat16> q(a.q, a.shape, place, a.shape.queries, vectors);
  const TokenRows<const Bfloat16> k(a.k, a.shape, place, a.shape.keys, vectors);
  const TokenRows<const Bfloat16> v(a.v, a.shape, place, a.shape.keys, vectors);
  const float scale = kLog2E / sqrtf(static_cast<float>(a.shape.width));
  const int first = place.first + 32 * warp_of_block();
  const auto load = [&](int stage, int first_key) {
    load_tile<Plan::kThreads>(s.k[stage], k, first_key);
    load_tile<Plan::kThreads>(s.v[stage], v, first_key);
    cp_async_commit();
    if constexpr (kDropout) draw_kept<Plan::kThreads>(s.kept[stage], a.dropout, a.shape, place, place.first, first_key);
  };
  load_tile<Plan::kThreads>(s.q, q, place.first);
  load(0, 0);
  ForwardState<kWidth> state;
#pragma unroll
  for (int m = 0; m < 2; ++m) {
#pragma unroll
    for (int n = 0; n < kWidth / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) state.out[m][n][i] = 0.0F;
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      state.top[m][half] = -std::numeric_limits<float>::infinity();
      state.total[m][half] = 0.0F;
    }
  }
  std::uint32_t held[2][kWidth / 16][4];
  for (int key = 0; key == 0 || key < a.shape.keys; key += kTileTokens) {
    const int stage = key / kTileTokens % Plan::kStages;
    cp_async_wait<0>();
    __syncthreads();  // the tile is there, and nobody reads the one before
    if (!kShort && key + kTileTokens < a.shape.keys) load(1 - stage, key + kTileTokens);
    if (first >= a.shape.queries) continue;
    if constexpr (Plan::kHoldsQueries) {
      if (key == 0) {
#pragma unroll
        for (int m = 0; m < 2; ++m) {
#pragma unroll
          for (int c = 0; c < kWidth / 16; ++c) load_a(held[m][c], s.q, 32 * warp_of_block() + 16 * m, 16 * c);
        }
      }
    }
    constexpr int kStep = 16 * Plan::kGroups;
#pragma unroll 1
    for (int step = 0; step < kTileTokens; step += kStep) {
      const int keys = a.shape.keys - key - step;
      if (keys >= kStep) {
        visit_keys<kWidth, true, kDropout>(state, s, stage, step, kStep, scale, held);
      } else if (keys > 0) {
        visit_keys<kWidth, false, kDropout>(state, s, stage, step, keys, scale, held);
      }
    }
  }
  const TokenRows<Bfloat16> out(a.out, a.shape, place, a.shape.queries, vectors);
  if (first < a.shape.queries) finish<kWidth, kShort>(a, place, out, s, state, first);
}

template <int kWidth, bool kShort, bool kDropout>
void start(const AttentionForwardCall<Bfloat16>& call) {
  using Plan = ForwardPlan<kWidth, kShort>;
  launch(attention_forward_bf16<kWidth, kShort, kDropout>,
         {.grid = blocks_of_tiles(call.shape, call.shape.queries, Plan::kQueries),
          .block = Plan::kThreads,
          .shared_bytes = sizeof(ForwardShared<kWidth, kShort>),
          .stream = call.stream},
         call, vectors_of_16_bytes(call.shape, call.q, call.k, call.v, call.out));
}

}  // namespace

void run_attention_forward(const AttentionForwardCall<Bfloat16>& call) {
  const bool is_short = call.shape.queries <= kTileTokens && call.shape.keys <= kTileTokens;
  dispatch_width(call.shape.width, [&]<int kWidth>() {
    if (is_short) {
      (call.dropout.drops ? start<kWidth, true, true> : start<kWidth, true, false>)(call);
    } else {
      (call.dropout.drops ? start<kWidth, false, true> : start<kWidth, false, false>)(call);
    }
  });
}

}  // namespace vitrail::cuda
