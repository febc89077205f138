// The routers whose tokens choose experts: gates, the experts of a token, slots.

#include <algorithm>
#include <cmath>

#include "base/philox.hpp"
#include "device/cuda/launch.hpp"
#include "gpu_intrinsics.hpp"
#include "ops/cuda/block_sort.hpp"
#include "ops/cuda/cuda_ops.hpp"
#include "ops/cuda/gates.hpp"

namespace vitrail::cuda {
namespace {

constexpr int kGroupThreads = 1024;  // of a block that works on a group, at most
constexpr int kWarps = kGroupThreads / 32;
constexpr int kSharedKeys = 1 << 14;  // larger groups are sorted in global memory

// --- experts of a token ----------------------------------------------------------------------------------------------

/// What an expert is chosen by, the smallest first; NaN comes last.
__device__ __forceinline__ std::uint64_t key_of_expert(float gate, int expert) {
  return key_of(isnan(gate) ? 0xFFFFFFFFU : descending(gate), expert);
}

/// The smallest key of the token's lanes.
template <int kLanes>
__device__ __forceinline__ std::uint64_t smallest_of(std::uint64_t key) {
#pragma unroll
  for (int distance = kLanes / 2; distance > 0; distance /= 2)
    key = min(key, __shfl_xor_sync(kAllLanes, key, distance));
  return key;
}

/// Of the experts that are not in `taken` (bit i: this lane's expert i) that of the largest gate, the lowest of equals.
/// NaN is larger than nothing and nothing is larger than it, so that it is chosen where it comes first.
template <int kLanes, int kPerLane>
__device__ __forceinline__ int largest_gate(const float (&p)[kPerLane], std::uint32_t taken, int lane, bool any_nan) {
  std::uint64_t first = kNoKey;  // the lowest expert of all
  if (any_nan) {
#pragma unroll
    for (int i = kPerLane - 1; i >= 0; --i) {
      if ((taken >> i & 1U) == 0) first = key_of(0, lane + kLanes * i);
    }
    first = smallest_of<kLanes>(first);
  }
  std::uint64_t best = kNoKey;
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    const int expert = lane + kLanes * i;
    if ((taken >> i & 1U) != 0) continue;
    const bool nan_in_front = any_nan && isnan(p[i]) && expert == place_of(first);
    best = min(best, nan_in_front ? first : key_of_expert(p[i], expert));
  }
  return place_of(smallest_of<kLanes>(best));
}

/// K = choices; selected, gate: [tokens K].
struct Choices {
  std::int32_t* selected;
  float* gate;
  int choices;
};

template <int kLanes, int kPerLane>
__global__ void __launch_bounds__(kTokenThreads) choose_experts(Gates gates, Choices c) {
  const TokenLane<kLanes> at;
  float p[kPerLane];
  find_gates<kLanes>(gates, at, p);
  std::uint32_t taken = 0;
  bool nan = false;
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    if (at.lane + kLanes * i >= gates.experts) taken |= 1U << i;
    nan = nan || isnan(p[i]);
  }
  const bool any_nan = __ballot_sync(kAllLanes, nan) != 0;
  for (int j = 0; j < c.choices; ++j) {
    const int expert = largest_gate<kLanes>(p, taken, at.lane, any_nan);
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      if (at.lane + kLanes * i != expert) continue;
      taken |= 1U << i;
      if (at.token >= gates.tokens) continue;
      c.selected[at.token * c.choices + j] = expert;
      c.gate[at.token * c.choices + j] = p[i];
    }
  }
}

/// The gates at given experts.
template <int kLanes, int kPerLane>
__global__ void __launch_bounds__(kTokenThreads)
    look_up_gates(Gates gates, const std::int32_t* selected, float* gate, int choices) {
  const TokenLane<kLanes> at;
  float p[kPerLane];
  find_gates<kLanes>(gates, at, p);
  if (at.token >= gates.tokens) return;
  for (int j = 0; j < choices; ++j) {
    const int expert = selected[at.token * choices + j];
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      if (at.lane + kLanes * i == expert) gate[at.token * choices + j] = p[i];
    }
  }
}

// --- the order of a group's tokens -----------------------------------------------------------------------------------

struct OrderTokens {
  const float* gate;  // [groups S K]
  int tokens, choices;
  TokenOrder order;
  Philox random;
  std::uint64_t first_token;
  int keys;                // S, up to a power of two
  std::uint64_t* scratch;  // [groups keys] for groups that do not fit shared memory
  std::int32_t* places;    // [groups S]: the tokens of a group, first things first
};

template <int count>
struct SharedKeys {
  std::uint64_t keys[count];
};

/// The high half of a token's key.
__device__ __forceinline__ std::uint32_t rank_of_token(const OrderTokens& a, std::int64_t token) {
  const float* const gate = a.gate + token * a.choices;
  if (a.order == TokenOrder::prioritized) return descending(gate[0]);
  if (a.order == TokenOrder::reversed) return descending(-gate[0]);
  if (a.order == TokenOrder::random) return a.random.bits(a.first_token + static_cast<std::uint64_t>(token));
  float total = 0.0F;  // TokenOrder::prioritized_sum
  for (int j = 0; j < a.choices; ++j) total += gate[j];
  return descending(total);
}

template <int count>
__global__ void __launch_bounds__(kGroupThreads) order_tokens(OrderTokens a) {
  std::uint64_t* const keys =
      a.scratch != nullptr ? a.scratch + std::int64_t{blockIdx.x} * a.keys : shared_memory<SharedKeys<count>>().keys;
  const std::int64_t first = std::int64_t{blockIdx.x} * a.tokens;
  const int threads = static_cast<int>(blockDim.x), thread = static_cast<int>(threadIdx.x);
  for (int s = thread; s < a.keys; s += threads)
    keys[s] = s < a.tokens ? key_of(rank_of_token(a, first + s), s) : kNoKey;
  __syncthreads();
  sort_keys(keys, a.keys);
  for (int s = thread; s < a.tokens; s += threads) a.places[first + s] = place_of(keys[s]);
}

// --- slots -----------------------------------------------------------------------------------------------------------

/// Choice-major: position p of a group is choice p / S of the token whose turn is p % S.
struct TakeSlots {
  const std::int32_t* selected;  // [groups S K]
  const std::uint8_t* valid;     // [groups S], or nullptr
  const std::int32_t* places;    // [groups S], or nullptr: tokens in their own order
  std::int32_t* slot;            // [groups S K]
  int tokens, choices, experts;
};

template <int experts>
struct ExpertCounts {
  std::int32_t of_warp[kWarps][experts];
};

/// An assignment of this block's group, and its expert: -1 where it takes no slot.
struct Assignment {
  std::int64_t index;
  int expert;
};
__device__ __forceinline__ Assignment assignment_at(const TakeSlots& a, int position) {
  if (position >= a.tokens * a.choices) return {-1, -1};
  const std::int64_t first = std::int64_t{blockIdx.x} * a.tokens;
  const int choice = position / a.tokens, turn = position % a.tokens;
  const std::int64_t token = first + (a.places != nullptr ? a.places[first + turn] : turn);
  const std::int64_t index = token * a.choices + choice;
  return {index, a.valid == nullptr || a.valid[token] != 0 ? a.selected[index] : -1};
}

/// The lanes that ask for the same expert; experts are below 2^bits. All lanes of a warp together.
__device__ __forceinline__ unsigned lanes_with(int expert, int bits) {
  unsigned lanes = __ballot_sync(kAllLanes, expert >= 0);
  for (int bit = 0; bit < bits; ++bit) {
    const bool set = (expert >> bit & 1) != 0;
    const unsigned with = __ballot_sync(kAllLanes, set);
    lanes &= set ? with : ~with;
  }
  return expert >= 0 ? lanes : 0U;
}

/// A warp has a run of positions: it counts the experts in it, starts where the warps in front of it end, and hands
/// out the slots.
template <int kExperts>
__global__ void __launch_bounds__(kGroupThreads) take_slots(TakeSlots a, int run, int bits) {
  auto& counts = shared_memory<ExpertCounts<kExperts>>().of_warp;
  const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
  const int warp = thread / 32, lane = thread % 32;
  std::int32_t* const count = counts[warp];
  for (int e = lane; e < a.experts; e += 32) count[e] = 0;
  __syncwarp();
  for (int i = 0; i < run; i += 32) {
    const int expert = assignment_at(a, warp * run + i + lane).expert;
    const unsigned lanes = lanes_with(expert, bits);
    if (lane == __ffs(static_cast<int>(lanes)) - 1) count[expert] += __popc(lanes);
    __syncwarp();
  }
  __syncthreads();
  for (int e = thread; e < a.experts; e += threads) {
    int total = 0;
    for (int w = 0; w < threads / 32; ++w) {
      const int of_warp = counts[w][e];
      counts[w][e] = total;
      total += of_warp;
    }
  }
  __syncthreads();
  for (int i = 0; i < run; i += 32) {
    const auto [index, expert] = assignment_at(a, warp * run + i + lane);
    const unsigned lanes = lanes_with(expert, bits);
    const int in_front = __popc(lanes & ((1U << lane) - 1U));
    const int slot = expert < 0 ? -1 : count[expert] + in_front;
    if (index >= 0) a.slot[index] = slot;
    __syncwarp();
    if (lane == __ffs(static_cast<int>(lanes)) - 1) count[expert] += __popc(lanes);
    __syncwarp();
  }
}

template <int kExperts>
void launch_take_slots(const TakeSlots& a, std::int64_t groups, cudaStream_t stream) {
  const int positions = a.tokens * a.choices;
  const int threads = std::clamp((positions + 31) / 32 * 32, 32, kGroupThreads);
  const int run = (positions + threads - 1) / threads * 32;
  launch(take_slots<kExperts>,
         {.grid = dim3(static_cast<unsigned>(groups)),
          .block = dim3(static_cast<unsigned>(threads)),
          .shared_bytes = sizeof(ExpertCounts<kExperts>),
          .stream = stream},
         a, run, std::bit_width(static_cast<unsigned>(a.experts - 1)));
}

template <int count>
void launch_order_tokens(const OrderTokens& a, std::int64_t groups, cudaStream_t stream) {
  launch(order_tokens<count>,
         {.grid = dim3(static_cast<unsigned>(groups)),
          .block = dim3(static_cast<unsigned>(std::clamp(a.keys / 2, 32, kGroupThreads))),
          .shared_bytes = a.scratch != nullptr ? 0 : sizeof(SharedKeys<count>),
          .stream = stream},
         a);
}

}  // namespace

void CudaOps::run(const RouteTopK& a) {
  const std::int64_t groups = a.gates.shape[0], tokens = a.gates.shape[1], experts = a.gates.shape[2];
  const std::int64_t choices = a.selected.shape[2];
  if (a.selected.elements() == 0) return;
  auto* const selected = data_of<std::int32_t>(a.selected);
  auto* const gate = data_of<float>(a.gate);
  dispatch_experts(experts, [&]<int kLanes, int kPerLane>() {
    launch(choose_experts<kLanes, kPerLane>,
           {.grid = token_blocks<kLanes>(groups * tokens), .block = dim3(kTokenThreads), .stream = stream()},
           gates_of(a), Choices{selected, gate, static_cast<int>(choices)});
  });

  std::int32_t* places = nullptr;
  if (a.order != TokenOrder::vanilla) {
    const auto keys = static_cast<int>(std::bit_ceil(static_cast<std::uint64_t>(tokens)));
    places = workspace<std::int32_t>(Scratch::a, groups * tokens);
    const OrderTokens order{gate,
                            static_cast<int>(tokens),
                            static_cast<int>(choices),
                            a.order,
                            Philox(a.draw.seed, Purpose::token_order, a.draw.step, a.draw.layer),
                            a.draw.first_token,
                            keys,
                            keys > kSharedKeys ? workspace<std::uint64_t>(Scratch::b, groups * keys) : nullptr,
                            places};
    if (keys <= 2048) {
      launch_order_tokens<2048>(order, groups, stream());
    } else {
      launch_order_tokens<kSharedKeys>(order, groups, stream());
    }
  }

  const TakeSlots slots{selected,
                        a.valid ? data_of<std::uint8_t>(a.valid) : nullptr,
                        places,
                        data_of<std::int32_t>(a.slot),
                        static_cast<int>(tokens),
                        static_cast<int>(choices),
                        static_cast<int>(experts)};
  if (experts <= 128) {
    launch_take_slots<128>(slots, groups, stream());
  } else {
    launch_take_slots<1024>(slots, groups, stream());
  }
}

void CudaOps::run(const RouteAsGiven& a) {
  const std::int64_t choices = a.selected.shape[2];
  const Gates gates = gates_of(a);
  dispatch_experts(gates.experts, [&]<int kLanes, int kPerLane>() {
    launch(look_up_gates<kLanes, kPerLane>,
           {.grid = token_blocks<kLanes>(gates.tokens), .block = dim3(kTokenThreads), .stream = stream()}, gates,
           data_of<std::int32_t>(a.selected), data_of<float>(a.gate), static_cast<int>(choices));
  });
}

}  // namespace vitrail::cuda
